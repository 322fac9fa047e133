//! Documents: files that clients upload, and vector stores in which their passages are found. `/v1/files`, `/v1/vector_stores`

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::ids::fresh;
use crate::refusal::Refusal;
use crate::served::{Served, now};

pub(crate) mod asked;
pub(crate) mod form;
pub(crate) mod request;
pub(crate) mod search;

/// The most files, and the most stores, of a tenant.
const MOST: usize = 1024;

/// A file: a text.
pub(crate) struct File {
    pub(crate) id: String,
    tenant: Option<blake3::Hash>,
    pub(crate) name: String,
    purpose: String,
    pub(crate) text: String,
    created: u64,
}

/// A part of a file that is found as a whole.
#[derive(Clone)]
pub(crate) struct Passage {
    pub(crate) file: Arc<File>,
    pub(crate) bytes: Range<usize>,
    /// Its vector; empty where no encoder is served.
    vector: Vec<f32>,
}

impl Passage {
    pub(crate) fn text(&self) -> &str {
        &self.file.text[self.bytes.clone()]
    }

    /// The numbers of its first and its last line, from 1.
    pub(crate) fn lines(&self) -> [usize; 2] {
        let line = |at: usize| 1 + self.file.text[..at].bytes().filter(|byte| *byte == b'\n').count();
        [line(self.bytes.start), line(self.bytes.end)]
    }
}

/// A vector store: passages of some files.
pub(crate) struct Store {
    pub(crate) id: String,
    tenant: Option<blake3::Hash>,
    name: Option<String>,
    /// The encoder whose vectors the passages have; without one, they are found by their words.
    pub(crate) encoder: Option<Arc<Served>>,
    pub(crate) files: Vec<Arc<File>>,
    pub(crate) passages: Arc<Vec<Passage>>,
    created: u64,
}

#[derive(Default)]
struct All {
    files: Vec<Arc<File>>,
    stores: Vec<Arc<Store>>,
}

/// The documents of all tenants.
pub(crate) struct Documents {
    /// The most bytes of the texts and vectors of all.
    most: u64,
    all: Mutex<All>,
}

/// Those of a tenant.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) documents: Arc<Documents>,
    pub(crate) tenant: Option<blake3::Hash>,
}

impl File {
    pub(crate) fn described(&self) -> Value {
        json!({"id": self.id, "object": "file", "bytes": self.text.len(), "created_at": self.created, "filename": self.name,
            "purpose": self.purpose, "status": "processed"})
    }
}

impl Store {
    pub(crate) fn described(&self) -> Value {
        let n = self.files.len();
        json!({"id": self.id, "object": "vector_store", "created_at": self.created, "name": self.name, "usage_bytes": self.bytes(),
            "file_counts": {"in_progress": 0, "completed": n, "failed": 0, "cancelled": 0, "total": n}, "status": "completed",
            "longreach": {"passages": self.passages.len(), "encoder": self.encoder.as_ref().map(|encoder| &encoder.id)}})
    }

    fn bytes(&self) -> u64 {
        self.passages.iter().map(|passage| (64 + 4 * passage.vector.len()) as u64).sum()
    }

    /// Its files.
    pub(crate) fn listed(&self) -> Value {
        listed(self.files.iter().filter_map(|file| self.file(&file.id).ok()).collect())
    }

    /// The JSON object of one of its files.
    pub(crate) fn file(&self, id: &str) -> Result<Value, Refusal> {
        let file = self.files.iter().find(|file| file.id == id).ok_or_else(|| unknown("file", "file_id", id))?;
        Ok(json!({"id": file.id, "object": "vector_store.file", "created_at": self.created, "vector_store_id": self.id,
            "status": "completed", "usage_bytes": file.text.len(), "last_error": null}))
    }
}

fn unknown(what: &str, param: &str, id: &str) -> Refusal {
    let id: String = id.chars().take(100).collect();
    let message = format!("there is no {what} `{id}`: documents are gone when the server ends");
    Refusal { param: Some(param.to_owned()), ..Refusal::new(StatusCode::NOT_FOUND, "not_found", message) }
}

fn full(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "documents_full", message)
}

fn listed(data: Vec<Value>) -> Value {
    let end = |value: Option<&Value>| value.map(|value| value["id"].clone());
    json!({"object": "list", "first_id": end(data.first()), "last_id": end(data.last()), "data": data, "has_more": false})
}

impl Documents {
    pub(crate) fn new(most: u64) -> Self {
        Self { most, all: Mutex::default() }
    }

    fn locked(&self) -> MutexGuard<'_, All> {
        // The lists are whole whenever the lock is released.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error if there is no room for so many bytes more.
    fn room(&self, all: &All, bytes: u64) -> Result<(), Refusal> {
        let files = all.files.iter().map(|file| file.text.len() as u64);
        let held: u64 = files.chain(all.stores.iter().map(|store| store.bytes())).sum();
        match held.saturating_add(bytes) > self.most {
            true => Err(full(format!(
                "{bytes} bytes more: all documents may have {} (--documents-ram), delete some",
                self.most
            ))),
            false => Ok(()),
        }
    }
}

impl Own {
    /// `POST /v1/files`
    pub(crate) fn add_file(&self, name: String, purpose: String, text: String) -> Result<Arc<File>, Refusal> {
        let mut all = self.documents.locked();
        self.documents.room(&all, text.len() as u64)?;
        if all.files.iter().filter(|file| file.tenant == self.tenant).count() >= MOST {
            return Err(full(format!("{MOST} files are kept, which is the most: delete one")));
        }
        let file = Arc::new(File { id: fresh("file-"), tenant: self.tenant, name, purpose, text, created: now() });
        all.files.push(file.clone());
        Ok(file)
    }

    pub(crate) fn files(&self) -> Value {
        let all = self.documents.locked();
        listed(all.files.iter().rev().filter(|file| file.tenant == self.tenant).map(|file| file.described()).collect())
    }

    pub(crate) fn file(&self, id: &str, param: &str) -> Result<Arc<File>, Refusal> {
        let all = self.documents.locked();
        let found = all.files.iter().find(|file| file.tenant == self.tenant && file.id == id);
        found.cloned().ok_or_else(|| unknown("file", param, id))
    }

    /// `DELETE /v1/files/{id}`. Its passages leave the stores that have them.
    pub(crate) fn delete_file(&self, id: &str) -> Result<Value, Refusal> {
        let file = self.file(id, "file_id")?;
        let mut all = self.documents.locked();
        all.files.retain(|other| !Arc::ptr_eq(other, &file));
        for store in &mut all.stores {
            if store.files.iter().any(|other| Arc::ptr_eq(other, &file)) {
                *store = Arc::new(store.without(&file));
            }
        }
        Ok(json!({"id": id, "object": "file", "deleted": true}))
    }

    /// Keeps a store, instead of one with its id if there is one.
    pub(crate) fn keep(&self, store: Store) -> Result<Arc<Store>, Refusal> {
        let mut all = self.documents.locked();
        let before = all.stores.iter().position(|other| other.id == store.id);
        let had = before.map_or(0, |at| all.stores[at].bytes());
        self.documents.room(&all, store.bytes().saturating_sub(had))?;
        if before.is_none() && all.stores.iter().filter(|other| other.tenant == self.tenant).count() >= MOST {
            return Err(full(format!("{MOST} vector stores are kept, which is the most: delete one")));
        }
        let store = Arc::new(store);
        match before {
            Some(at) => all.stores[at] = store.clone(),
            None => all.stores.push(store.clone()),
        }
        Ok(store)
    }

    pub(crate) fn stores(&self) -> Value {
        let all = self.documents.locked();
        let own = all.stores.iter().rev().filter(|store| store.tenant == self.tenant);
        listed(own.map(|store| store.described()).collect())
    }

    pub(crate) fn store(&self, id: &str, param: &str) -> Result<Arc<Store>, Refusal> {
        let all = self.documents.locked();
        let found = all.stores.iter().find(|store| store.tenant == self.tenant && store.id == id);
        found.cloned().ok_or_else(|| unknown("vector store", param, id))
    }

    pub(crate) fn delete_store(&self, id: &str) -> Result<Value, Refusal> {
        let store = self.store(id, "vector_store_id")?;
        self.documents.locked().stores.retain(|other| other.id != store.id);
        Ok(json!({"id": id, "object": "vector_store.deleted", "deleted": true}))
    }

    /// Takes a file out of a store.
    pub(crate) fn take_out(&self, store: &str, file: &str) -> Result<Value, Refusal> {
        let store = self.store(store, "vector_store_id")?;
        store.file(file)?;
        let file = self.file(file, "file_id")?;
        self.keep(store.without(&file))?;
        Ok(json!({"id": file.id, "object": "vector_store.file.deleted", "deleted": true}))
    }
}

impl Store {
    fn without(&self, file: &Arc<File>) -> Self {
        let files = self.files.iter().filter(|other| !Arc::ptr_eq(other, file)).cloned().collect();
        let passages = self.passages.iter().filter(|passage| !Arc::ptr_eq(&passage.file, file)).cloned().collect();
        self.with(files, passages)
    }

    /// The same store with other files.
    pub(crate) fn with(&self, files: Vec<Arc<File>>, passages: Vec<Passage>) -> Self {
        let Self { id, tenant, name, encoder, created, .. } = self;
        let (id, name, encoder) = (id.clone(), name.clone(), encoder.clone());
        Self { id, tenant: *tenant, name, encoder, files, passages: Arc::new(passages), created: *created }
    }

    /// An empty store.
    pub(crate) fn new(tenant: Option<blake3::Hash>, name: Option<String>, encoder: Option<Arc<Served>>) -> Self {
        let (id, created) = (fresh("vs_"), now());
        Self { id, tenant, name, encoder, files: Vec::new(), passages: Arc::default(), created }
    }
}
