//! The list of mechanisms matches the source tree: each form in the list is a file in the mechanism's folder, and the
//! other way round.

use std::path::Path;

use longreach_attention::{Form, MECHANISMS};

#[test]
fn mechanism_list_matches_the_source_tree() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for mechanism in MECHANISMS {
        let folder = src.join(mechanism.family).join(mechanism.name);
        assert!(folder.join("mod.rs").is_file(), "{} has no folder", mechanism.name);
        for form in [Form::Naive, Form::Chunk, Form::Recurrent, Form::Backward, Form::Step, Form::Pattern] {
            let file = folder.join(form.name()).with_extension("rs");
            assert_eq!(file.is_file(), mechanism.forms.contains(&form), "{}: {}", mechanism.name, form.name());
        }
    }
}
