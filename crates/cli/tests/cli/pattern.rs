//! `longreach pattern`

use crate::{run, stdout, text};

#[test]
fn every_pattern_is_shown_with_its_example() {
    let listed = stdout(&["pattern"]);
    assert_eq!(listed.lines().count(), 10);
    for line in listed.lines().filter(|line| !line.contains(" masked ")) {
        let (command, parameters) = line.split_once(" --params '").expect("an example");
        let name = command.trim_start_matches("longreach pattern ").trim();
        let shown = stdout(&["pattern", name, "--params", parameters.trim_end_matches('\''), "--length", "512"]);
        assert!(shown.contains("density") && shown.contains('█') | shown.contains('░'), "{shown}");
    }
}

#[test]
fn a_picture_shows_what_is_seen() {
    let shown = stdout(&["pattern", "window", "--params", r#"{"left": 1}"#, "--length", "4", "--heads", "2"]);
    let want =
        "██      \n████    \n  ████  \n    ████\nwindow {\"left\":1}\ndensity  43.750 %: 14 of 32 pairs in 2 heads\n";
    assert!(shown.starts_with(want), "{shown}");
    let folder = tempfile::tempdir().expect("a directory");
    let (png, svg) = (folder.path().join("a.png"), folder.path().join("a.svg"));
    stdout(&["pattern", "dense", "--length", "16", "--png", text(&png), "--svg", text(&svg)]);
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(png).expect("written")));
    let mut reader = decoder.read_info().expect("a PNG");
    let mut shades = vec![0; reader.output_buffer_size().expect("small")];
    let info = reader.next_frame(&mut shades).expect("a picture");
    assert_eq!((info.width, info.height), (16, 16));
    assert!(shades.iter().enumerate().all(|(i, shade)| *shade == if i % 16 <= i / 16 { 0 } else { 255 }));
    let svg = std::fs::read_to_string(svg).expect("written");
    assert_eq!(svg.matches("<rect").count(), 17);
}

#[test]
fn a_deepspeed_configuration_is_read_from_its_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("ds_config.json");
    std::fs::write(&file, r#"{"train_batch_size": 8, "sparse_attention": {"mode": "fixed", "block": 16}}"#)
        .expect("written");
    let shown = stdout(&["pattern", "deepspeed", "--params-file", text(&file), "--length", "256"]);
    assert!(shown.contains("density  43.750 %"), "{shown}");
}

/// As a tutorial prints the file, comment and all.
#[test]
fn the_file_of_a_tutorial_is_read_from_its_file() {
    let file = r#"{
  "sparse_attention": {
    "enabled": true,
    "block_size": 64,
    "sparsity_structure": "fixed", // "fixed", "bigbird", "bslongformer", ou "variable"
    "local_window_size": 256,
    "num_global_blocks": 1,
    "random_blocks": false
  }
}"#;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("ds_config.json");
    std::fs::write(&path, file).expect("written");
    let density = |shown: String| shown.lines().find(|line| line.starts_with("density")).map(str::to_owned);
    let found = stdout(&["pattern", "deepspeed", "--params-file", text(&path), "--length", "1024"]);
    let own = r#"{"mode": "fixed", "block": 64, "num_local_blocks": 4, "num_global_blocks": 1}"#;
    let want = stdout(&["pattern", "deepspeed", "--params", own, "--length", "1024"]);
    assert!(found.contains("density"), "{found}");
    assert_eq!(density(found), density(want));
    let both = file.replace("\"block_size\": 64", "\"block\": 16, \"block_size\": 64");
    let output = run(&["pattern", "deepspeed", "--params", &both]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("`block_size` is 64, want what `block` says, 16"), "{said}");
}

#[test]
fn what_does_not_fit_is_one_line() {
    for (args, want) in [
        (&["pattern", "foo"][..], "want one of dense, masked"),
        (&["pattern", "window", "--params", r#"{"rigth": 2}"#], "rigth"),
        (&["pattern", "window", "--params", "{"], "--params: EOF"),
        (&["pattern", "window", "--params-file", "/nonexistent.json"], "/nonexistent.json"),
        (
            &["pattern", "deepspeed", "--length", "100"],
            "deepspeed: `tokens` is 100, want a multiple of the block of 16",
        ),
        (&["pattern", "bigbird", "--length", "100"], "bigbird: `tokens` is 100"),
        (&["pattern", "streaming", "--params", r#"{"recent": 0}"#], "streaming: `recent` is 0, want at least 1"),
        (&["pattern", "dense", "--head", "12"], "--head 12"),
        (&["pattern", "dense", "--png", "/nonexistent/a.png"], "/nonexistent"),
    ] {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(want) && said.trim_end().lines().count() == 1, "{args:?}: {said}");
    }
}
