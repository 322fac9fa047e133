//! `POST /v1/completions`

use longreach_engine::scheduler::Thoughts;
use longreach_engine::{Engine, Pieces};
use serde_json::Value;

use crate::answer::Shape;
use crate::asked::{Asked, MOST_ANSWERS, MOST_LOGPROBS, refuse};
use crate::fields::{Fields, ids, parse, wrong};
use crate::generate::Work;
use crate::refusal::Refusal;
use crate::schema;
use crate::served::Models;
use crate::settings::Settings;
use crate::states::{Mine, Named};
use crate::tell::Prompt;

/// The most prompts of a request.
const MOST_PROMPTS: usize = 256;
/// Tokens of an answer, if a request does not say.
const TOKENS: usize = 256;

/// Reads a request.
pub(crate) fn prepare(body: &[u8], models: &Models, settings: &Settings, mine: &Mine) -> Result<Work, Refusal> {
    let map = parse(body)?;
    let f = Fields::new(&map);
    let known = schema::names(&[schema::WRITING, schema::COMPLETIONS]);
    let ignored = f.unknown(&known, settings.lenient)?;
    let asked = Asked::read(&f, models, mine, ignored)?;
    refuse(&f, &[("suffix", &["".into()]), ("store", &[false.into()])])?;
    if let Some(best) = f.whole("best_of", 1..=i64::MAX)?
        && best != asked.n as i64
    {
        let message = format!("`best_of`: only as many as `n`, which is {}, found {best}", asked.n);
        return Err(Refusal::unsupported("best_of", message));
    }
    let logprobs = f.whole("logprobs", 0..=MOST_LOGPROBS)?.map(|top| top as usize);
    let echo = f.flag("echo")?.unwrap_or(false);
    if echo && asked.state.is_some() {
        return Err(Refusal::unsupported("echo", "`echo`: not behind a state, whose text is not repeated"));
    }
    let most = f.whole("max_tokens", 0..=settings.most_tokens as i64)?.map(|most| most as usize);
    let prompts = prompts(&f, &asked.engine, asked.state.as_deref())?;
    if prompts.len() * asked.n > MOST_ANSWERS {
        let message =
            format!("{} prompts with {} answers each: at most {MOST_ANSWERS} answers", prompts.len(), asked.n);
        return Err(Refusal::value("n", message));
    }
    let before = asked.state.as_ref().map_or(0, |state| state.before());
    let longest = before + prompts.iter().map(Vec::len).max().unwrap_or(0);
    settings.check_input(longest, "prompt")?;
    let most = asked.room(most, TOKENS, longest, "max_tokens")?;
    let prompts = prompts.into_iter().map(|ids| {
        let echo = echo.then(|| asked.engine.tokenizer()?.decode(&ids)).transpose()?;
        Ok(Prompt { ids, before, echo })
    });
    let prompts = prompts.collect::<Result<_, longreach_engine::Error>>()?;
    let prompt_logprobs = logprobs.filter(|_| echo);
    let thoughts = Thoughts::Together;
    Ok(Work {
        asked,
        shape: Shape::Text,
        prompts,
        most,
        logprobs,
        prompt_logprobs,
        thoughts,
        ends_of_messages: Vec::new(),
        sources: None,
    })
}

/// The tokens of the prompts, those of the state that they go on behind before them.
pub(crate) fn prompts(f: &Fields<'_>, engine: &Engine, state: Option<&Named>) -> Result<Vec<Vec<u32>>, Refusal> {
    let Some(state) = state else { return texts(f, engine, false) };
    let behind = if f.get("prompt").is_none() { vec![Vec::new()] } else { texts(f, engine, true)? };
    Ok(behind.into_iter().map(|ids| [state.ids(), &ids].concat()).collect())
}

fn texts(f: &Fields<'_>, engine: &Engine, behind: bool) -> Result<Vec<Vec<u32>>, Refusal> {
    let encoded = |engine: &Engine, text: &str| encoded(engine, text, behind);
    let vocabulary = engine.model.decoder.vocabulary();
    let list = match f.get("prompt") {
        None => return Ok(vec![start(engine)?]),
        Some(Value::String(text)) => return Ok(vec![encoded(engine, text)?]),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("prompt", "a string, a list of strings, or token ids", other)),
    };
    match list.first() {
        None => Err(Refusal::value("prompt", "`prompt`: the list is empty")),
        Some(Value::Number(_)) => Ok(vec![ids(list, "prompt", vocabulary)?]),
        Some(_) if list.len() > MOST_PROMPTS => {
            Err(Refusal::value("prompt", format!("`prompt`: at most {MOST_PROMPTS} prompts, found {}", list.len())))
        }
        Some(_) => {
            let one = |(i, prompt): (usize, &Value)| {
                let path = format!("prompt[{i}]");
                match prompt {
                    Value::String(text) => encoded(engine, text),
                    Value::Array(list) if !list.is_empty() => ids(list, &path, vocabulary),
                    Value::Array(_) => Err(Refusal::value(&path, format!("`{path}`: the list is empty"))),
                    other => Err(wrong(&path, "a string or token ids", other)),
                }
            };
            list.iter().enumerate().map(one).collect()
        }
    }
}

/// What an empty prompt is: the tokens before every text, or the token that separates texts.
fn start(engine: &Engine) -> Result<Vec<u32>, Refusal> {
    let prefix = engine.tokenizer()?.prefix()?;
    Ok(if prefix.is_empty() { vec![engine.model.start.unwrap_or(0)] } else { prefix })
}

/// The tokens of a text as `longreach generate` reads it, at the beginning or behind a state.
fn encoded(engine: &Engine, text: &str, behind: bool) -> Result<Vec<u32>, Refusal> {
    if text.is_empty() {
        return if behind { Ok(Vec::new()) } else { start(engine) };
    }
    let mut pieces = Pieces::new(engine.tokenizer()?, text.as_bytes(), "the prompt").continues(behind);
    let mut ids = Vec::new();
    while let Some(piece) = pieces.next_piece()? {
        ids.extend(piece);
    }
    within(engine, &ids)?;
    if ids.is_empty() && !behind { start(engine) } else { Ok(ids) }
}

/// Refuses a token without a row in the embedding table.
pub(crate) fn within(engine: &Engine, ids: &[u32]) -> Result<(), Refusal> {
    let vocabulary = engine.model.decoder.vocabulary();
    match ids.iter().find(|id| **id as usize >= vocabulary) {
        None => Ok(()),
        Some(id) => Err(longreach_engine::Error::Token { id: *id, vocabulary }.into()),
    }
}
