//! The data of a run: what is learnt in each step, and what is held out.

use std::collections::HashSet;

use longreach_engine::Tokenizer;
use longreach_search::documents::Input;

use crate::Error;
use crate::config::{Config, Format, HeldOut, Objective as Learnt, Optimiser};
use crate::data::{Corpus, Cursor, Example, Mix, Page, Record, Records, Streamed, Tokens, Windows, hash};
use crate::model::Starting;
use crate::objective::{Objective, Row};
use crate::texts::Texts;
use crate::tokenizer::{self, END_OF_TEXT};

/// What a step learns.
pub(super) enum Stream {
    /// Windows of texts.
    Windows(Windows),
    /// Rows of tables, by source.
    Rows(Vec<Vec<Example>>, Mix),
    /// Rows of tables that are read while they are learnt.
    Streamed(Box<Streamed>),
}

impl Stream {
    /// The examples of a step, which depend on the step only.
    pub(super) fn step(
        &mut self,
        step: usize,
        batch: usize,
        (objective, texts): (&dyn Objective, Option<&Texts>),
    ) -> Result<Vec<Example>, Error> {
        Ok(match self {
            Stream::Windows(windows) => windows.step(step, batch),
            Stream::Rows(sources, mix) => {
                mix.step(step, batch).into_iter().map(|(source, row)| sources[source][row].clone()).collect()
            }
            Stream::Streamed(rows) => {
                let texts = texts.expect("tables have a tokenizer");
                rows.step(step, batch, (objective, texts))?
            }
        })
    }

    /// The number of examples of an epoch; `None` if it is not known before all are read.
    pub(super) fn count(&self) -> Option<usize> {
        match self {
            Stream::Windows(windows) => Some(windows.count()),
            Stream::Rows(sources, _) => Some(sources.iter().map(Vec::len).sum()),
            Stream::Streamed(_) => None,
        }
    }

    /// Where streamed rows are read on.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        match self {
            Stream::Streamed(rows) => Some(rows.cursor()),
            Stream::Windows(_) | Stream::Rows(..) => None,
        }
    }

    /// Reads streamed rows on from a cursor.
    pub(super) fn seek(&mut self, to: Cursor) {
        if let Stream::Streamed(rows) = self {
            rows.seek(to);
        }
    }
}

/// What is evaluated on.
pub(super) enum Held {
    /// Whole pages, each read from its start.
    Pages { pages: Vec<Vec<u32>>, bytes: usize, text: String },
    /// Examples.
    Rows(Vec<Example>),
}

/// The sizes of the data, for the user.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    /// Bytes of text, or rows, and tokens to learn.
    pub(super) train: (usize, usize),
    /// The same, held out.
    pub(super) held_out: (usize, usize),
}

/// The data of a run, with its tokenizer.
pub(super) struct Prepared {
    pub(super) stream: Stream,
    pub(super) held: Held,
    pub(super) sizes: Sizes,
    /// `None` for files of token ids without a tokenizer.
    pub(super) texts: Option<Texts>,
    pub(super) labels: Vec<String>,
    /// The token between texts.
    pub(super) end: Option<u32>,
    /// 0 for a table.
    pub(super) vocabulary: usize,
}

fn vocabulary(tokenizer: &Tokenizer) -> usize {
    tokenizer.hugging_face().map_or(0, |tokenizer| tokenizer.get_vocab_size(true))
}

/// Reads the data of a configuration, and trains the tokenizer if it is asked for.
pub(super) fn prepare(
    config: &Config,
    starting: &mut Starting,
    objective: &mut dyn Objective,
) -> Result<Prepared, Error> {
    if matches!(config.objective, Learnt::Table { .. }) {
        return super::table::of_table(config, starting);
    }
    let causal = matches!(config.objective, Learnt::Causal { .. });
    match config.data.format {
        Format::Tokens if causal => of_tokens(config, starting),
        Format::Tokens => Err(Error::Config {
            file: "data".into(),
            message: format!(
                "`data.format`: files of token ids go with the objective `causal`, not `{}`",
                config.objective.name()
            ),
        }),
        Format::Text if causal => of_pages(config, starting),
        Format::Text | Format::Table => of_rows(config, starting, objective),
    }
}

fn of_pages(config: &Config, starting: &Starting) -> Result<Prepared, Error> {
    let mut corpus = Corpus::read(&config.data)?;
    if let HeldOut::Path { path } = &config.data.held_out {
        let mut sources = config.data.sources.clone();
        sources.truncate(1);
        sources[0].path.clone_from(path);
        let data = crate::Data { sources, held_out: HeldOut::Part(0.0), ..config.data.clone() };
        corpus.held_out = Corpus::read(&data)?.train;
        let held: HashSet<&str> = corpus.held_out.iter().map(|page| page.text.as_str()).collect();
        corpus.train.retain(|page| !held.contains(page.text.as_str()));
    }
    let tokenizer = match &starting.tokenizer {
        Some(tokenizer) => tokenizer.clone(),
        None => tokenizer::of(config, &corpus.train, &config.output.join("tokenizer.json"))?,
    };
    let length = config.optimiser.length;
    let vocabulary = vocabulary(&tokenizer);
    let texts = starting.texts(tokenizer, length)?;
    let end = texts.end().or_else(|| texts.tokenizer().hugging_face().and_then(|t| t.token_to_id(END_OF_TEXT)));
    let (pages, held) =
        (tokenizer::encode(texts.tokenizer(), &corpus.train)?, tokenizer::encode(texts.tokenizer(), &corpus.held_out)?);
    let bytes = |pages: &[Page]| pages.iter().map(|p| p.text.len()).sum::<usize>();
    let count = |pages: &[Vec<u32>]| pages.iter().map(Vec::len).sum::<usize>();
    let sizes =
        Sizes { train: (bytes(&corpus.train), count(&pages)), held_out: (bytes(&corpus.held_out), count(&held)) };
    let stream = Stream::Windows(Windows::of_pages(pages, end, length, config.seed));
    let text = corpus.held_out.iter().map(|page| page.text.as_str()).collect();
    let held = Held::Pages { pages: held, bytes: sizes.held_out.0, text };
    Ok(Prepared { stream, held, sizes, texts: Some(texts), labels: Vec::new(), end, vocabulary })
}

fn of_tokens(config: &Config, starting: &Starting) -> Result<Prepared, Error> {
    let length = config.optimiser.length;
    let texts = starting.tokenizer.clone().map(|tokenizer| starting.texts(tokenizer, length)).transpose()?;
    let of_model = config.model.get("vocab_size").and_then(toml::Value::as_integer).unwrap_or(0);
    let vocabulary = texts.as_ref().map_or(of_model.max(0) as usize, |texts| vocabulary(texts.tokenizer()));
    let wrong = |message: String| Error::Config { file: "data".into(), message };
    if vocabulary == 0 {
        return Err(wrong(
            "want `tokenizer.file` or `model.vocab_size`, since files of token ids have no vocabulary".into(),
        ));
    }
    let [source] = &config.data.sources[..] else {
        return Err(wrong(format!("want one file of token ids, found {}", config.data.sources.len())));
    };
    let open = |path: &str| Tokens::open(std::path::Path::new(path), vocabulary);
    let tokens = open(&source.path)?;
    let all = tokens.len();
    let (tokens, held) = match &config.data.held_out {
        HeldOut::Path { path } => {
            let held = open(path)?;
            (tokens, held.range(0, held.len()))
        }
        // The end of the file.
        HeldOut::Part(part) => {
            let kept = all - (part * all as f64) as usize;
            let held = tokens.range(kept, all);
            (tokens.up_to(kept), held)
        }
    };
    let sizes = Sizes { train: (tokens.len(), tokens.len()), held_out: (held.len(), held.len()) };
    let stream = Stream::Windows(Windows::new(tokens, length, config.seed));
    let end = texts.as_ref().and_then(Texts::end);
    let held = Held::Pages { pages: vec![held], bytes: 0, text: String::new() };
    Ok(Prepared { stream, held, sizes, texts, labels: Vec::new(), end, vocabulary })
}

fn of_rows(config: &Config, starting: &Starting, objective: &mut dyn Objective) -> Result<Prepared, Error> {
    // Of streamed rows the first show the columns, train a tokenizer that is asked for, and hold those to evaluate on.
    let records = match config.data.stream {
        true => Records::beginning(&config.data, objective.roles(), config.data.shuffle)?,
        false => Records::read(&config.data, objective.roles())?,
    };
    let tokenizer = match &starting.tokenizer {
        Some(tokenizer) => tokenizer.clone(),
        None => {
            let rows = records.train.iter().flatten();
            let text = |row: &Record| row.values.iter().flatten().cloned().collect::<Vec<_>>().join("\n");
            let pages: Vec<Page> = rows.map(|row| Page { name: row.origin.clone(), text: text(row) }).collect();
            tokenizer::of(config, &pages, &config.output.join("tokenizer.json"))?
        }
    };
    let vocabulary = vocabulary(&tokenizer);
    let texts = starting.texts(tokenizer, config.optimiser.length)?;
    let all = match config.data.stream {
        true => Vec::new(),
        false => records.train.iter().flatten().chain(&records.held_out).collect::<Vec<&Record>>(),
    };
    let labels = objective.labels(&records.roles, &all).map_err(Error::Text)?;
    let mut number = 0;
    let mut examples = |rows: &[Record]| -> Result<Vec<Example>, Error> {
        let mut all = Vec::new();
        for record in rows {
            let row = Row { number, roles: &records.roles, record };
            number += 1;
            let found = objective.examples(&row, &texts);
            all.extend(found.map_err(|message| Error::Text(format!("{}: {message}", record.origin)))?);
        }
        Ok(all)
    };
    let held = examples(&records.held_out)?;
    let tokens = |of: &[Example]| of.iter().flat_map(|e| &e.texts).map(|text| text.ids.len()).sum::<usize>();
    if config.data.stream {
        let bytes = config.data.sources.iter().filter_map(|source| Input::of(&source.path).ok()?.bytes()).sum::<u64>();
        let sizes = Sizes { train: (bytes as usize, 0), held_out: (held.len(), tokens(&held)) };
        let own = matches!(config.data.held_out, HeldOut::Path { .. });
        let held_hashes = if own { records.held_out.iter().map(hash).collect() } else { HashSet::new() };
        let rows = Streamed::new(config.data.clone(), records.roles, held_hashes, config.seed);
        let (stream, end) = (Stream::Streamed(Box::new(rows)), texts.end());
        return Ok(Prepared { stream, held: Held::Rows(held), sizes, texts: Some(texts), labels, end, vocabulary });
    }
    let mut sources = records.train.iter().map(|rows| examples(rows)).collect::<Result<Vec<_>, _>>()?;
    let sizes = Sizes {
        train: (records.len(), sources.iter().map(|source| tokens(source)).sum()),
        held_out: (records.held_out.len(), tokens(&held)),
    };
    if let Some(empty) = sources.iter().position(Vec::is_empty) {
        let path = &config.data.sources[empty].path;
        return Err(Error::Text(format!("{path}: no row has anything to learn")));
    }
    let weights: Vec<Option<f64>> = config.data.sources.iter().map(|source| source.weight).collect();
    let counts: Vec<usize> = sources.iter().map(Vec::len).collect();
    let mix = Mix::new(&counts, &weights, config.seed);
    if weights.iter().all(Option::is_none) {
        sources = vec![sources.into_iter().flatten().collect()];
    }
    let end = texts.end();
    let stream = Stream::Rows(sources, mix);
    Ok(Prepared { stream, held: Held::Rows(held), sizes, texts: Some(texts), labels, end, vocabulary })
}

/// The settings with the number of steps, which may be given as epochs. An error if a step needs more than there is.
pub(super) fn settled(o: &Optimiser, stream: &Stream) -> Result<Optimiser, Error> {
    let Some(count) = stream.count() else { return Ok(o.clone()) };
    if let Stream::Windows(_) = stream
        && count < o.batch
    {
        let message =
            format!("the training text has {count} sequences of {} tokens, but a step needs {}", o.length, o.batch);
        return Err(Error::Text(message));
    }
    let steps = match o.epochs {
        Some(epochs) => ((epochs * count as f64 / o.batch as f64).ceil() as usize).max(1),
        None => o.steps,
    };
    Ok(Optimiser { steps, ..o.clone() })
}
