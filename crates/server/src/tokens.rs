//! `POST /tokenize` and `POST /detokenize`

use longreach_engine::Engine;
use serde_json::{Map, Value, json};

use crate::fields::{Fields, ids, parse, wrong};
use crate::refusal::Refusal;
use crate::schema;
use crate::served::{Models, Purpose};
use crate::settings::Settings;

fn engine(f: &Fields<'_>, models: &Models) -> Result<Engine, Refusal> {
    let served = models.find(f.text("model")?, |purpose| matches!(purpose, Purpose::Write { .. }))?;
    let Purpose::Write { engine, .. } = &served.purpose else { return Err(Refusal::internal()) };
    Ok(engine.clone())
}

/// The tokens of a text or of a conversation.
pub(crate) fn tokenize(body: &[u8], models: &Models, settings: &Settings) -> Result<Value, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    f.unknown(&schema::names(&[schema::TOKENIZE]), settings.lenient)?;
    let engine = engine(&f, models)?;
    let tokenizer = engine.tokenizer()?;
    let tokens = match (f.get("messages"), f.text("content")?.or(f.text("prompt")?)) {
        (Some(_), _) => {
            crate::chat::encoded(
                &engine,
                &crate::messages::messages(&f, &engine)?,
                &Map::new(),
                crate::chat::End::Asking,
            )?
            .0
        }
        (None, None) => return Err(Refusal::field("missing_required", "content", "`content` is missing")),
        (None, Some(text)) if f.flag("add_special")?.unwrap_or(true) => {
            let around = tokenizer.encode_around(text)?;
            [around.ids, around.behind].concat()
        }
        (None, Some(text)) => tokenizer.encode(text)?,
    };
    let mut answer = json!({"tokens": tokens, "count": tokens.len(), "max_input": engine.longest()});
    if f.flag("with_pieces")?.unwrap_or(false) {
        answer["pieces"] = tokens.iter().map(|id| Value::from(crate::answer::name(&tokenizer.bytes(*id)))).collect();
    }
    Ok(answer)
}

/// The text of tokens.
pub(crate) fn detokenize(body: &[u8], models: &Models, settings: &Settings) -> Result<Value, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    f.unknown(&schema::names(&[schema::DETOKENIZE]), settings.lenient)?;
    let engine = engine(&f, models)?;
    let tokens = f.want("tokens")?;
    let list = tokens.as_array().ok_or_else(|| wrong("tokens", "a list of token ids", tokens))?;
    let ids = ids(list, "tokens", engine.model.decoder.vocabulary())?;
    Ok(json!({"content": engine.tokenizer()?.decode(&ids)?}))
}
