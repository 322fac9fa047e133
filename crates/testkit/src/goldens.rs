//! Golden files: small outputs of other implementations, as safetensors files whose metadata names the script that made
//! them.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// A golden file, read into memory.
pub struct Golden {
    bytes: Vec<u8>,
    path: String,
}

impl Golden {
    /// Reads `path`. Panics with the name of the script to run if the file is missing.
    #[track_caller]
    pub fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let bytes =
            std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}; the script beside it makes it", path.display()));
        Self { bytes, path: path.display().to_string() }
    }

    fn view(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path))
    }

    /// An entry of the metadata. Panics if it is missing.
    #[track_caller]
    pub fn about(&self, key: &str) -> String {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path));
        let entry = metadata.metadata().as_ref().and_then(|all| all.get(key));
        entry.unwrap_or_else(|| panic!("{}: no entry {key:?}", self.path)).clone()
    }

    /// Whether the file has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names().iter().any(|known| known == name)
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.view().names().into_iter().map(String::from).collect()
    }

    /// A tensor of f32 or f64, widened to f64, with its shape. Panics if it is missing or of another type.
    #[track_caller]
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = self.view();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path));
        let data = tensor.data();
        let numbers = match tensor.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f64).collect(),
            Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            other => panic!("{}: {name} is {other:?}, not floats", self.path),
        };
        (tensor.shape().to_vec(), numbers)
    }

    /// A tensor of i64, with its shape. Panics if it is missing or of another type.
    #[track_caller]
    pub fn integers(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        let file = self.view();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{}: {name}: {e}", self.path));
        assert_eq!(tensor.dtype(), Dtype::I64, "{}: {name}", self.path);
        (tensor.shape().to_vec(), tensor.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }
}
