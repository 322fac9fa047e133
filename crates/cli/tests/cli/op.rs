//! `longreach op`, `longreach list NAME` and `longreach bench attention`

use std::collections::HashMap;
use std::path::Path;

use longreach_attention::operation::{Sample, Tensors, named};
use longreach_attention::{Form, MECHANISMS};
use ndarray::{ArrayD, IxDyn};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::{longreach, run, stdout, text};

pub(crate) fn write(file: &Path, tensors: &Tensors) {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|x| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, x), bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, x.shape().to_vec(), bytes).expect("as many bytes as numbers"))
    });
    std::fs::write(file, safetensors::serialize(views, None::<HashMap<String, String>>).expect("tensors"))
        .expect("written");
}

pub(crate) fn read(file: &Path) -> Tensors {
    let bytes = std::fs::read(file).expect("written");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let number = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
    let array = |view: TensorView<'_>| {
        let numbers = view.data().chunks_exact(4).map(number).collect();
        ArrayD::from_shape_vec(IxDyn(view.shape()), numbers).expect("as many numbers as the shape asks for")
    };
    tensors.tensors().into_iter().map(|(name, view)| (name, array(view))).collect()
}

/// The largest difference.
pub(crate) fn apart(a: &ArrayD<f32>, b: &ArrayD<f32>) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn every_mechanism_runs_on_a_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let at = |name: &str| folder.path().join(name);
    for mechanism in MECHANISMS {
        let operation = named(mechanism.name).expect("a mechanism");
        let inputs = operation.sample(&Sample { tokens: 512, heads: 2, width: 4, ..Sample::default() });
        let (file, naive, fast) = (at("in.safetensors"), at("naive.safetensors"), at("fast.safetensors"));
        write(&file, &inputs);
        let example = operation.signature().example;
        let call = ["op", mechanism.name, "--inputs", text(&file), "--params", example];
        stdout(&[&call[..], &["--form", "naive", "--out", text(&naive)]].concat());
        let mut given = inputs;
        given.insert("do".into(), read(&naive)["o"].clone());
        write(&file, &given);
        stdout(&[&call[..], &["--grad", "--out", text(&fast)]].concat());
        let (naive, fast) = (read(&naive), read(&fast));
        assert!(apart(&naive["o"], &fast["o"]) < 1e-4, "{}", mechanism.name);
        let first = operation.signature().inputs[0].name;
        assert_eq!(fast[&format!("d{first}")].shape(), given[first].shape(), "{}", mechanism.name);
        let about = stdout(&["list", mechanism.name]);
        assert!(operation.signature().inputs.iter().all(|input| about.contains(input.about)), "{about}");
        let about: serde_json::Value =
            serde_json::from_str(&stdout(&["list", mechanism.name, "--json"])).expect("JSON");
        assert_eq!(about["inputs"][0]["name"], first);
    }
}

/// A form has one name: that which `op --form` takes.
#[test]
fn forms_have_one_name() {
    let json = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&stdout(args)).expect("JSON") };
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/mechanisms.md");
    let docs = std::fs::read_to_string(docs).expect("a page");
    let names = Form::ALL.map(Form::name);
    let help = stdout(&["op", "--help"]);
    assert!(help.contains(&format!("[possible values: {}]", names.join(", "))), "{help}");
    for name in names {
        assert!(docs.contains(&format!("\n| `{name}` |")), "{name} is not explained");
    }
    let (list, table) = (json(&["list", "--json"]), stdout(&["list"]));
    for (mechanism, listed) in MECHANISMS.iter().zip(list["mechanisms"].as_array().expect("a list")) {
        let forms: Vec<&str> = mechanism.forms.iter().map(|form| form.name()).collect();
        let path = listed["path"].as_str().expect("a path");
        assert!(path.ends_with(mechanism.name), "{path}");
        assert_eq!(listed["forms"], serde_json::json!(forms), "{path}");
        assert_eq!(json(&["list", mechanism.name, "--json"])["forms"], serde_json::json!(forms), "{path}");
        let about = format!("\nforms {}, and the gradient\n", forms.join(" "));
        assert!(stdout(&["list", mechanism.name]).contains(&about), "{path}");
        let row = table.lines().find(|line| line.trim_start().starts_with(&format!("{path} "))).expect(path);
        assert!(row.contains(&format!(" {} ", forms.join(" "))), "{row}");
        assert!(docs.contains(&format!("| `{path}` | {} |", forms.join(", "))), "{path} in the docs");
    }
}

#[test]
fn numbers_of_other_types_are_read() {
    let folder = tempfile::tempdir().expect("a directory");
    let (file, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let half: Vec<u8> = [1.0f32, -2.0, 0.5, 3.0].iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    let wide: Vec<u8> = [1.0f64, -2.0, 0.5, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let keep: Vec<u8> = vec![1, 0];
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.to_vec(), bytes).expect("a tensor");
    let views = [
        ("q", view(Dtype::BF16, &[1, 2, 1, 2], &half)),
        ("k", view(Dtype::F64, &[1, 2, 1, 2], &wide)),
        ("v", view(Dtype::F64, &[1, 2, 1, 2], &wide)),
        ("keep", view(Dtype::BOOL, &[1, 2], &keep)),
    ];
    std::fs::write(&file, safetensors::serialize(views, None::<HashMap<String, String>>).expect("tensors"))
        .expect("written");
    stdout(&["op", "dense", "--inputs", text(&file), "--out", text(&out)]);
    // The second key is padding: both queries get the first value.
    assert_eq!(read(&out)["o"].iter().copied().collect::<Vec<f32>>(), [1.0, -2.0, 1.0, -2.0]);
}

#[test]
fn lengths_are_measured() {
    let folder = tempfile::tempdir().expect("a directory");
    let (csv, svg) = (folder.path().join("cost.csv"), folder.path().join("cost.svg"));
    let mechanisms = r#"dense,window={"left": 7},scan"#;
    let sizes = ["--lengths", "64..128", "--heads", "1", "--width", "8", "--repeat", "1", "--mechanisms", mechanisms];
    let files = ["--csv", text(&csv), "--svg", text(&svg)];
    let table = stdout(&[&["bench", "attention"][..], &sizes, &files].concat());
    assert_eq!(table.lines().count(), 4, "{table}");
    let csv = std::fs::read_to_string(csv).expect("written");
    assert_eq!(csv.lines().count(), 7, "{csv}");
    assert!(csv.contains(r#"window,"{""left"":7}",64,"#), "{csv}");
    let svg = std::fs::read_to_string(svg).expect("written");
    assert!(svg.contains("window left 7") && svg.contains("<polyline"), "{svg}");
    for more in [&["--grad"][..], &["--form", "chunk"]] {
        assert_eq!(stdout(&[&["bench", "attention"][..], more, &sizes].concat()).lines().count(), 4);
    }
}

#[test]
fn what_does_not_fit_is_one_line() {
    let folder = tempfile::tempdir().expect("a directory");
    let (file, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let mut inputs = named("window").expect("a mechanism").sample(&Sample { tokens: 8, ..Sample::default() });
    write(&file, &inputs);
    inputs.insert("k".into(), ArrayD::zeros(IxDyn(&[1, 9, 4, 64])));
    let crooked = folder.path().join("crooked.safetensors");
    write(&crooked, &inputs);
    let torn = folder.path().join("torn.safetensors");
    std::fs::write(&torn, b"not tensors").expect("written");
    let left = r#"{"left": 3}"#;
    for (args, want) in [
        (&["op", "windows", "--inputs", text(&file)][..], "\"windows\""),
        (&["op", "window", "--inputs", text(&file)], "window: `left` is none, want how far back a query sees"),
        (
            &["op", "window", "--inputs", text(&crooked), "--params", left],
            "`k` has shape [1, 9, 4, 64], want [1, 8, 4, 64]",
        ),
        (&["op", "window", "--inputs", text(&torn), "--params", left], "torn.safetensors"),
        (&["op", "window", "--inputs", "/nonexistent", "--params", left], "/nonexistent"),
        (
            &["op", "window", "--inputs", text(&file), "--params", left, "--form", "recurrent"],
            "want one of naive, chunk, step",
        ),
        (&["op", "window", "--inputs", text(&file), "--params", left, "--grad"], "`do`"),
        (&["op", "lsh", "--inputs", text(&file)], "lsh: `inputs` is \"k\""),
    ] {
        let output = run(&[args, &["--out", text(&out)]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(want) && said.trim_end().lines().count() == 1, "{args:?}: {said}");
        assert!(!out.exists());
    }
    for args in [["--lengths", "2..1"], ["--mechanisms", "window={"], ["--mechanisms", "foo"]] {
        let output = longreach(&["bench", "attention"]).args(args).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
