//! The values of the parameters that are trained, by name, off the graph: for checkpoints and averages.

use std::collections::HashMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Tensor, TensorData};
use longreach_models::write_atomically;
use longreach_nn::Names;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::Error;

/// Values of parameters, in the layout of memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(HashMap<ParamId, Vec<f32>>);

struct Each<'a, F> {
    values: &'a mut HashMap<ParamId, Vec<f32>>,
    known: F,
}

impl<F: FnMut(&mut Vec<f32>, &[f32])> ModuleVisitor for Each<'_, F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let data = param.val().inner().into_data();
        let now: Vec<f32> = data.iter::<f32>().collect();
        match self.values.get_mut(&param.id) {
            Some(known) => (self.known)(known, &now),
            None => {
                self.values.insert(param.id, now);
            }
        }
    }
}

struct Replace<'a>(&'a HashMap<ParamId, Vec<f32>>);

impl ModuleMapper for Replace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(values) = self.0.get(&param.id) else { return param };
        let (shape, device, learns) = (param.val().dims(), param.val().device(), param.is_require_grad());
        let value = Tensor::from_data(TensorData::new(values.clone(), shape), &device);
        Param::initialized(param.id, value.set_require_grad(learns))
    }
}

impl Values {
    /// The values of a module's parameters.
    pub(crate) fn of<M: Module>(module: &M) -> Self {
        let mut values = Self::default();
        values.each(module, |_, _| {});
        values
    }

    /// Calls `known` with the values that are kept and those of the module; values that are new are kept.
    pub(crate) fn each<M: Module>(&mut self, module: &M, known: impl FnMut(&mut Vec<f32>, &[f32])) {
        module.visit(&mut Each { values: &mut self.0, known });
    }

    /// The module with these values.
    pub(crate) fn placed<M: Module>(&self, module: M) -> M {
        module.map(&mut Replace(&self.0))
    }

    /// Writes the values to a safetensors file.
    pub(crate) fn save(&self, names: &Names, file: &Path) -> Result<(), Error> {
        let named = names.all().filter_map(|(id, name)| Some((name, self.0.get(&id)?)));
        let bytes: Vec<(&str, Vec<u8>)> =
            named.map(|(name, x)| (name, x.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
        let views = bytes.iter().map(|(name, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes);
            (*name, view.expect("the bytes match the shape"))
        });
        let wrong = |e: safetensors::SafeTensorError| Error::Resume { path: file.into(), message: e.to_string() };
        let written = safetensors::serialize(views, None).map_err(wrong)?;
        Ok(write_atomically(file, |out| out.write_all(&written))?)
    }

    /// Reads values that [`Values::save`] wrote, for all parameters of a module. An error if one is missing or has another size.
    pub(crate) fn load<M: Module>(module: &M, names: &Names, file: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
        let wrong = |message: String| Error::Resume { path: file.into(), message };
        let stored = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let mut values = Self::of(module);
        for (id, name) in names.all() {
            let Some(value) = values.0.get_mut(&id) else { continue };
            let tensor = stored.tensor(name).map_err(|_| {
                wrong(format!(
                    "parameter `{name}` is missing: the checkpoint is of another model; choose another `output`"
                ))
            })?;
            let numbers: Vec<f32> = tensor.data().as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
            if numbers.len() != value.len() {
                let (want, found) = (value.len(), numbers.len());
                return Err(wrong(format!("parameter `{name}`: want {want} numbers, found {found}")));
            }
            *value = numbers;
        }
        Ok(values)
    }
}
