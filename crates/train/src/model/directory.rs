//! The small files of a model's directory.

use std::path::Path;

use crate::Error;

/// Copies the tokenizer, the settings and the modules of a model's directory: its small files, but no weights and no `config.json`.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<(), Error> {
    copy(from, to, 0)
}

fn copy(from: &Path, to: &Path, depth: usize) -> Result<(), Error> {
    const KEPT: [&str; 5] = ["json", "txt", "model", "jinja", "tiktoken"];
    const MOST: u64 = 64 << 20;
    for entry in std::fs::read_dir(from).map_err(|e| Error::io(from, e))? {
        let path = entry.map_err(|e| Error::io(from, e))?.path();
        let Some(name) = path.file_name() else { continue };
        let about = std::fs::metadata(&path).map_err(|e| Error::io(&path, e))?;
        if about.is_dir() {
            // The modules of sentence-transformers, such as `1_Pooling`.
            let module = name.to_string_lossy().starts_with(|c: char| c.is_ascii_digit());
            if depth == 0 && module {
                let inner = to.join(name);
                std::fs::create_dir_all(&inner).map_err(|e| Error::io(&inner, e))?;
                copy(&path, &inner, 1)?;
            }
            continue;
        }
        let kept = path.extension().and_then(|e| e.to_str()).is_some_and(|end| KEPT.contains(&end));
        let of_weights = name.to_string_lossy().ends_with(".index.json");
        if kept && !of_weights && (depth > 0 || name != "config.json") && about.len() <= MOST {
            let target = to.join(name);
            std::fs::copy(&path, &target).map_err(|e| Error::io(&target, e))?;
        }
    }
    Ok(())
}
