//! Models of tables: `longreach_table`. A row is a sequence with a token for each column; see [`longreach_nn::Tabular`].
//!
//! `config.json` has the sizes of the layers, the columns with what is needed to encode their values, and what is predicted:
//!
//! ```json
//! {"model_type": "longreach_table", "hidden_size": 64, "num_hidden_layers": 3, "mixer": "attention",
//!  "columns": [{"name": "hour", "type": "number", "mean": 12.1, "deviation": 5.3, "edges": [5.0, 9.0, 14.0, 23.0]},
//!              {"name": "carrier", "type": "category", "values": ["AA", "UA"]}],
//!  "answer": {"name": "late", "values": ["0", "1"]}}
//! ```
//!
//! An answer that is a number has `mean` and `deviation` in place of `values`. `mixer` is `attention`, or the mixer of a `longreach`
//! model, which is read in both directions.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use longreach_nn::mixers::AttentionConfig;
use longreach_nn::{
    BidirectionalConfig, Builder, Cells, GatedFeedForwardConfig, MixedBlockConfig, MixedConfig, Names, NormConfig,
    SequenceConfig, Source, Tabular, TabularConfig,
};

use crate::directory::read_config;
use crate::{Checkpoint, DType, Error, Fields, Location, Rewrites, save_module};

mod columns;

pub use columns::{Answer, Column, ColumnKind, NumberCode, TableRow};

/// The `model_type`.
pub const TABLE: &str = "longreach_table";

/// What a model of a table predicts for a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicted {
    /// For each label its probability, in the order of the labels.
    Labels(Vec<f64>),
    /// A number, in the units of the column.
    Number(f64),
}

/// A model of a table, ready to run.
#[derive(Debug)]
pub struct TableModel {
    /// The columns it reads, in the order of the values of a row.
    pub columns: Vec<Column>,
    /// What it predicts.
    pub answer: Answer,
    /// The network.
    pub network: Tabular,
    /// The names of the tensors, needed to save them.
    pub names: Names,
    /// The text of its `config.json`.
    pub config: String,
}

/// The columns and the answer of a configuration. Errors if a field is missing or invalid.
fn described(fields: &Fields) -> Result<(Vec<Column>, Answer), Error> {
    let columns: Vec<Column> = fields.objects("columns")?.iter().map(Column::of).collect::<Result<_, _>>()?;
    let [answer] = &fields.objects("answer")?[..] else {
        return Err(fields.error("field `answer`: want one object, what is predicted"));
    };
    Ok((columns, Answer::of(answer)?))
}

/// The sizes of the network.
fn sizes(fields: &Fields, columns: &[Column], answer: &Answer) -> Result<TabularConfig, Error> {
    let (hidden, layers) = (fields.size("hidden_size", 64)?, fields.layers("num_hidden_layers", 3)?);
    let heads = fields.size("num_attention_heads", (hidden / 16).max(1))?;
    let inner = fields.size("intermediate_size", (hidden * 4 / 3).div_ceil(8) * 8)?;
    let mixers = fields.named("mixer", "type")?;
    let block = |i: usize| {
        let mixer = match mixers.get(i % mixers.len().max(1)) {
            None => None,
            Some((name, _)) if name == "attention" => None,
            Some((name, own)) => Some(crate::model_types::mixer(name, own, hidden, (i, layers))?),
        };
        let mixer = match mixer {
            Some(mixer) => {
                SequenceConfig::Bidirectional(BidirectionalConfig { mixer, tied: fields.flag("tied", false)? })
            }
            None if hidden % heads == 0 => SequenceConfig::Attention(AttentionConfig::new(hidden, heads)),
            None => {
                let message = format!("field `num_attention_heads`: want a divisor of {hidden}, found {heads}");
                return Err(fields.error(message));
            }
        };
        Ok(MixedBlockConfig { mixer, feed_forward: GatedFeedForwardConfig::silu(inner) })
    };
    let blocks = (0..layers).map(block).collect::<Result<_, Error>>()?;
    let numbers = columns.iter().filter_map(Column::number);
    Ok(TabularConfig {
        numbers: numbers.clone().count(),
        code: numbers.map(NumberCode::length).max().unwrap_or(1),
        categories: columns.iter().filter_map(|column| Some(column.values()?.len())).collect(),
        encoder: MixedConfig { hidden, blocks, norm: NormConfig::Rms(fields.number("norm_eps", 1e-5)?) },
        outputs: answer.outputs(),
    })
}

impl TableModel {
    /// Whether the `config.json` of a directory describes a model of a table. Errors if the file cannot be read or parsed.
    pub fn is_at(at: &Location) -> Result<bool, Error> {
        Ok(at.gguf().is_none() && read_config(&at.directory)?.0.text("model_type")? == Some(TABLE))
    }

    /// Loads a model on the CPU. Errors if a file is missing or invalid, another model's, or a tensor does not fit.
    pub fn load(at: &Location) -> Result<Self, Error> {
        let (fields, config) = read_config(&at.directory)?;
        if fields.text("model_type")? != Some(TABLE) {
            return Err(fields.error(format!("field `model_type`: want {TABLE}, the model of a table")));
        }
        let mut checkpoint = Checkpoint::at(at)?.keep_as(Some(DType::F32));
        Self::from_source(fields.file(), &config, &mut checkpoint, &longreach_burn::cpu())
    }

    /// The model that `config`, which errors call `file`, describes, with weights of `source` on `device`. Errors if `config` is invalid,
    /// or a weight is missing or has another shape.
    pub fn from_source(file: &str, config: &str, source: &mut dyn Source, device: &Device) -> Result<Self, Error> {
        let fields = Fields::parse(file, config)?;
        let (columns, answer) = described(&fields)?;
        let sizes = sizes(&fields, &columns, &answer)?;
        let mut builder = Builder::new(source, device);
        let network = Tabular::new(&mut builder, &sizes)?;
        let names = builder.into_names();
        Ok(Self { columns, answer, network, names, config: config.to_owned() })
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.network.num_params()
    }

    /// A row from its values, in the order of the columns. Errors if a value of a column of numbers is none.
    pub fn row(&self, values: &[Option<String>]) -> Result<TableRow, String> {
        TableRow::of(&self.columns, self.network.config().code, values)
    }

    /// The outputs of the network for rows, `[rows, outputs]`.
    pub fn forward(&self, rows: &[&TableRow]) -> Tensor<2> {
        let codes: Vec<f32> = rows.iter().flat_map(|row| row.codes.iter().copied()).collect();
        let known: Vec<bool> = rows.iter().flat_map(|row| row.known.iter().copied()).collect();
        let categories: Vec<u32> = rows.iter().flat_map(|row| row.categories.iter().copied()).collect();
        self.network.forward(&Cells { rows: rows.len(), codes: &codes, known: &known, categories: &categories })
    }

    /// What is predicted for rows.
    pub fn predict(&self, rows: &[&TableRow]) -> Vec<Predicted> {
        if rows.is_empty() {
            return Vec::new();
        }
        let outputs: Vec<f32> = self.forward(rows).into_data().iter::<f32>().collect();
        outputs.chunks(self.answer.outputs()).map(|row| self.answer.predicted(row)).collect()
    }

    /// Writes the weights to a safetensors file in f32. Errors if the file cannot be written.
    pub fn save(&self, file: &std::path::Path) -> Result<(), Error> {
        save_module(&self.network, &self.names, DType::F32, &Rewrites::default(), file)
    }
}
