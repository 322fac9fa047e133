//! What clients ask of files and vector stores.

use std::sync::Arc;

use serde_json::{Value, json};

use super::search::{encoder, found, passages};
use super::{File, Own, Store, form};
use crate::body::Kept;
use crate::endpoint::Endpoint;
use crate::fields::{Fields, parse, wrong};
use crate::jobs::Jobs;
use crate::refusal::Refusal;
use crate::schema;
use crate::served::{Models, Purpose};
use crate::settings::Settings;

/// The most files of a request, and the most passages that are found.
const MOST_FILES: usize = 500;
pub(crate) const MOST_FOUND: i64 = 50;

/// Answers requests without a body: those that get or delete an object. `None` for other endpoints. For a file in a store,
/// `rest` has both ids.
pub(crate) fn told(endpoint: Endpoint, changes: bool, rest: &str, own: &Own) -> Result<Option<Value>, Refusal> {
    let store = |id: &str| own.store(id, "vector_store_id");
    let (outer, inner) = rest.split_once('/').unwrap_or((rest, ""));
    Ok(Some(match endpoint {
        Endpoint::Files if !changes => own.files(),
        Endpoint::File if changes => own.delete_file(rest)?,
        Endpoint::File => own.file(rest, "file_id")?.described(),
        Endpoint::Stores if !changes => own.stores(),
        Endpoint::Store if changes => own.delete_store(rest)?,
        Endpoint::Store => store(rest)?.described(),
        Endpoint::StoreFiles if !changes => store(rest)?.listed(),
        Endpoint::StoreFile if changes => own.take_out(outer, inner)?,
        Endpoint::StoreFile => store(outer)?.file(inner)?,
        _ => return Ok(None),
    }))
}

/// `POST /v1/files`: a form with `file` and `purpose`.
pub(crate) fn upload(body: &Kept, own: &Own) -> Result<Value, Refusal> {
    let boundary = body.boundary.as_deref().ok_or_else(Refusal::internal)?;
    let parts = form::parts(&body.bytes, boundary)?;
    let part = |name: &str| parts.iter().find(|part| part.name == name);
    if let Some(other) = parts.iter().find(|part| !["file", "purpose"].contains(&&*part.name)) {
        let name: String = other.name.chars().take(60).collect();
        let message = format!("there is no field `{name}`: want `file` and `purpose`");
        return Err(Refusal::field("unknown_parameter", name, message));
    }
    let missing = |name: &str| Refusal::field("missing_required", name, format!("`{name}` is missing"));
    let file = part("file").ok_or_else(|| missing("file"))?;
    let name: String =
        file.filename.as_deref().unwrap_or("file").chars().filter(|c| !c.is_control()).take(256).collect();
    let purpose = part("purpose").map_or("assistants".into(), |part| String::from_utf8_lossy(part.bytes).into_owned());
    if !["assistants", "user_data"].contains(&&*purpose) {
        let message = "`purpose`: want assistants or user_data: files are texts to search and to read";
        return Err(Refusal::unsupported("purpose", message));
    }
    let text = String::from_utf8(file.bytes.to_vec()).map_err(|_| {
        let message = format!("`file`: {name} is not UTF-8: want a text, such as .txt or .md");
        Refusal::field("unsupported_content", "file", message)
    })?;
    Ok(own.add_file(name, purpose, text)?.described())
}

/// A store and the files that it gets.
pub(crate) struct Indexing {
    store: Store,
    files: Vec<Arc<File>>,
    own: Own,
    /// The file whose object is returned, instead of that of the store.
    told: Option<String>,
    pub(crate) ignored: Vec<String>,
}

/// `POST /v1/vector_stores`
pub(crate) fn create(body: &[u8], models: &Models, settings: &Settings, own: &Own) -> Result<Indexing, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let mut ignored = f.unknown(&schema::names(&[schema::STORES]), settings.lenient)?;
    ignored.extend(f.get("metadata").map(|_| "metadata".to_owned()));
    let embeds = |purpose: &Purpose| matches!(purpose, Purpose::Embed(_));
    let encoder = match f.text("model")? {
        Some(name) => Some(models.find(Some(name), embeds)?),
        None => models.find(None, embeds).ok(),
    };
    let list = f.list("file_ids")?.map_or(&[][..], Vec::as_slice);
    if list.len() > MOST_FILES {
        return Err(Refusal::value("file_ids", format!("`file_ids`: at most {MOST_FILES}, found {}", list.len())));
    }
    let mut files: Vec<Arc<File>> = Vec::new();
    for (i, id) in list.iter().enumerate() {
        let path = format!("file_ids[{i}]");
        let file = own.file(id.as_str().ok_or_else(|| wrong(&path, "a string", id))?, &path)?;
        if !files.iter().any(|other| other.id == file.id) {
            files.push(file);
        }
    }
    let name = f.text("name")?.map(|name| name.chars().take(256).collect());
    Ok(Indexing { store: Store::new(own.tenant, name, encoder), files, own: own.clone(), told: None, ignored })
}

/// `POST /v1/vector_stores/{id}/files`
pub(crate) fn add(body: &[u8], id: &str, settings: &Settings, own: &Own) -> Result<Indexing, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let ignored = f.unknown(&schema::names(&[schema::STORE_FILES]), settings.lenient)?;
    let file = f.want("file_id")?;
    let file = own.file(file.as_str().ok_or_else(|| wrong("file_id", "a string", file))?, "file_id")?;
    let store = own.store(id, "vector_store_id")?;
    let known = store.files.iter().any(|other| other.id == file.id);
    let told = Some(file.id.clone());
    let files = if known { Vec::new() } else { vec![file] };
    let store = store.with(store.files.clone(), store.passages.to_vec());
    Ok(Indexing { store, files, own: own.clone(), told, ignored })
}

impl Indexing {
    /// Reads the files and keeps the store.
    pub(crate) async fn answer(self, jobs: &Jobs) -> Result<Value, Refusal> {
        let Self { store, files, own, told, .. } = self;
        let read = passages(files.clone(), encoder(store.encoder.as_ref()), jobs).await?;
        let all = [store.files.clone(), files].concat();
        let store = own.keep(store.with(all, [store.passages.to_vec(), read].concat()))?;
        told.map_or_else(|| Ok(store.described()), |file| store.file(&file))
    }
}

/// A search.
pub(crate) struct Search {
    store: Arc<Store>,
    query: String,
    most: usize,
    least: f32,
    pub(crate) ignored: Vec<String>,
}

/// `POST /v1/vector_stores/{id}/search`
pub(crate) fn search(body: &[u8], id: &str, settings: &Settings, own: &Own) -> Result<Search, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let ignored = f.unknown(&schema::names(&[schema::STORE_SEARCH]), settings.lenient)?;
    let query = match f.want("query")? {
        Value::String(text) => text.clone(),
        other => return Err(wrong("query", "a string", other)),
    };
    if f.flag("rewrite_query")? == Some(true) {
        return Err(Refusal::unsupported("rewrite_query", "`rewrite_query` is not supported by this server"));
    }
    let most = f.whole("max_num_results", 1..=MOST_FOUND)?.unwrap_or(10) as usize;
    let mut least = f32::NEG_INFINITY;
    if let Some(options) = f.object("ranking_options")? {
        options.unknown(&["score_threshold"], false)?;
        least = options.number("score_threshold", -1e6..=1e6)?.unwrap_or(least);
    }
    Ok(Search { store: own.store(id, "vector_store_id")?, query, most, least, ignored })
}

impl Search {
    pub(crate) async fn answer(self, jobs: &Jobs) -> Result<Value, Refusal> {
        let found = found(std::slice::from_ref(&self.store), &self.query, self.most, jobs).await?;
        let data = found.iter().filter(|found| found.score >= self.least).map(|found| {
            let (passage, [first, last]) = (&found.passage, found.passage.lines());
            json!({"file_id": passage.file.id, "filename": passage.file.name, "score": found.score, "attributes": {},
                "content": [{"type": "text", "text": passage.text()}],
                "longreach": {"start": passage.bytes.start, "end": passage.bytes.end, "first_line": first, "last_line": last}})
        });
        Ok(json!({"object": "vector_store.search_results.page", "search_query": [self.query],
            "data": data.collect::<Vec<_>>(), "has_more": false, "next_page": null}))
    }
}
