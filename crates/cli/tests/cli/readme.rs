use std::path::Path;

use crate::stdout;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name))
        .expect("a file of the project")
}

#[test]
fn the_table_is_what_the_program_prints() {
    let page = read("docs/mechanisms.md");
    let table = page.split("a test compares -->\n").nth(1).and_then(|r| r.split("<!-- end -->").next());
    assert_eq!(table, Some(stdout(&["list", "--markdown"]).as_str()));
}

#[test]
fn ci_runs_the_commands_of_the_readme() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let commands: Vec<&str> = readme.split("```sh\n").skip(1).take(2).filter_map(|b| b.lines().next()).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        assert!(ci.contains(command), "{command}");
    }
}
