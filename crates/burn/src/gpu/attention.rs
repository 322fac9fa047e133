//! Softmax attention under patterns that do not depend on the inputs. Lists of key blocks are made on the host for each call.

use burn_cubecl::tensor::CubeTensor;
use longreach_attention::softmax::Sizes;
use longreach_gpu::softmax::{Cotangent, Inputs, Listed, Output, Within, backward, few, forward};
use longreach_gpu::{DType, Device, Error, View};

use super::{Cube, Tensors, run, run_back};
use crate::bridge::{Gradient, Run};
use crate::softmax::{FEW, Softmax};

impl Softmax {
    /// The inputs of the kernel, and the lists of the pattern. An error if there is no such kernel.
    fn call(&self, device: &Device, x: &[View]) -> Result<(Inputs, Listed), Error> {
        let axis = |of: &View, at: usize| of.shape().get(at).copied().unwrap_or(0);
        let options = &self.options;
        let pattern = options.mechanism.pattern().filter(|_| self.earlier.is_empty());
        let Some(pattern) = pattern else {
            let want = "a pattern that does not depend on the inputs".into();
            return Err(Error::Parameter { op: "attention", parameter: "mechanism", want, found: String::new() });
        };
        let queries = options.offset..options.offset + axis(&x[0], 1);
        let of = Sizes { batch: axis(&x[0], 0), heads: axis(&x[0], 2), queries, keys: axis(&x[1], 1) };
        let within = Within { keep: options.keep.as_ref().map(|keep| keep.view()), packed: options.packed.as_deref() };
        let listed = Listed::new(device, &*pattern, &of, within, (axis(&x[0], 3), axis(&x[2], 3)))?;
        let slopes = |slopes: &Vec<f32>| View::upload(device, slopes, &[slopes.len()], DType::F32);
        let inputs = Inputs {
            scale: options.scale,
            softcap: options.softcap,
            bias: self.bias.then(|| x[3].clone()),
            alibi: options.alibi.as_ref().map(slopes),
            sinks: self.sinks.then(|| x[3 + usize::from(self.bias)].clone()),
            ..Inputs::new(x[0].clone(), x[1].clone(), x[2].clone())
        };
        Ok((inputs, listed))
    }
}

impl Run<Cube> for Softmax {
    fn run(&self, inputs: Tensors) -> Result<Tensors, Tensors> {
        run(inputs, |device, x| {
            let (inputs, listed) = self.call(device, x)?;
            let tokens = listed.of.queries.len();
            let Output { out, lse } =
                if tokens < FEW { few(device, &inputs, &listed)? } else { forward(device, &inputs, &listed)? };
            Ok(vec![out, lse])
        })
    }

    fn run_back(&self, of: Gradient<Cube>) -> Result<Vec<Option<CubeTensor>>, Gradient<Cube>> {
        run_back(of, |b| {
            let (inputs, listed) = self.call(&b.device, &b.x)?;
            let output = Output { out: b.saved[0].clone(), lse: b.saved[1].clone() };
            let d = Cotangent { out: b.d[0].clone(), lse: Some(b.d[1].clone()) };
            let g = backward(&b.device, &inputs, &listed, &output, &d)?;
            Ok([g.q, g.k, g.v].into_iter().chain(g.bias).chain(g.sinks).collect())
        })
    }
}
