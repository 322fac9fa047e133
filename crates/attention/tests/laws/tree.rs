//! The list of mechanisms matches the source tree: each has a folder with its definition and its entry in the list, and
//! a form that has a file of its own is in the entry.

use std::path::Path;

use longreach_attention::{Form, MECHANISMS};

#[test]
fn mechanism_list_matches_the_source_tree() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for mechanism in MECHANISMS {
        let folder = src.join(mechanism.family).join(mechanism.name);
        let file = |name: &str| folder.join(name).with_extension("rs");
        let read = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default();
        assert!(file("mod").is_file(), "{} has no folder", mechanism.name);
        assert!(file("naive").is_file(), "{} has no definition", mechanism.name);
        let entry = format!("name: \"{}\"", mechanism.name);
        let stands = ["operation", "mod"].into_iter().any(|name| read(name).contains(&entry));
        assert!(stands, "the entry of {} is not in its folder", mechanism.name);
        for form in Form::ALL.into_iter().filter(|form| file(form.name()).is_file()) {
            assert!(mechanism.forms.contains(&form), "{}: {}", mechanism.name, form.name());
        }
    }
}

/// No folder is missing from the list.
#[test]
fn every_definition_is_in_the_list() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for family in ["delta", "diagonal", "linear", "lowrank", "memory", "softmax", ""] {
        for entry in std::fs::read_dir(src.join(family)).expect("a folder") {
            let folder = entry.expect("an entry").path();
            if folder.join("naive.rs").is_file() && folder.join("mod.rs").is_file() && folder != src.join("softmax") {
                let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
                let listed = MECHANISMS.iter().any(|m| m.family == family && m.name == name);
                assert!(listed, "{family}/{name} is not in the list");
            }
        }
    }
}
