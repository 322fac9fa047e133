//! Softmax attention in a ring and by exchange.

use longreach_attention::operation::{Sample, Tensors, named};
use longreach_attention::softmax::{self, Cotangent, Inputs, Output, OutputView, Pattern, Sizes};
use longreach_cluster::layout::Spread;
use longreach_cluster::ring::Over;
use longreach_cluster::{Error, Layout, Threads, exchange, ring};
use longreach_simd::Cx;
use longreach_testkit::tolerance;
use ndarray::{ArrayD, ArrayView4, Ix4};
use proptest::prelude::*;

const BATCH: usize = 2;
const HEADS: usize = 4;
const GROUPS: usize = 2;
const WIDTH: usize = 8;

/// The patterns, with parameters under which a short text has visible and hidden pairs of every kind.
const PATTERNS: &[(&str, &str)] = &[
    ("dense", r#"{"causal": true}"#),
    ("dense", r#"{"causal": false}"#),
    ("window", r#"{"left": 9}"#),
    ("window", r#"{"left": 70, "right": 5}"#),
    ("streaming", r#"{"sinks": 3, "recent": 20}"#),
    ("dilated", r#"{"left": 6, "dilation": [3]}"#),
    ("longformer", r#"{"window": 8, "global": [0, 40]}"#),
    ("bigbird", r#"{"block": 16}"#),
    ("sparse_transformer", r#"{"kind": "strided", "stride": 7}"#),
];

/// The patterns that the mechanisms know by these names; others are left out, so that a changed parameter fails a test below.
fn pattern(i: usize, tokens: usize) -> Option<Box<dyn Pattern>> {
    let (name, parameters) = PATTERNS[i];
    let of = Sizes { batch: BATCH, heads: HEADS, queries: 0..tokens, keys: tokens };
    softmax::named(name, &serde_json::from_str(parameters).expect("JSON"), &of).ok()
}

struct Text {
    q: ArrayD<f32>,
    k: ArrayD<f32>,
    v: ArrayD<f32>,
    d: ArrayD<f32>,
}

impl Text {
    fn new(tokens: usize, seed: u64) -> Self {
        let dense = named("dense").expect("a mechanism");
        let draw = |seed, heads| {
            let of = Sample { batch: BATCH, tokens: tokens.max(1), heads, width: WIDTH, seed };
            let q: Tensors = dense.sample(&of);
            q["q"].slice_axis(ndarray::Axis(1), (0..tokens).into()).to_owned()
        };
        Self { q: draw(seed, HEADS), k: draw(seed + 1, GROUPS), v: draw(seed + 2, GROUPS), d: draw(seed + 3, HEADS) }
    }

    fn part(&self, layout: &Layout, rank: usize) -> Self {
        let part = |x: &ArrayD<f32>| layout.split(x.view(), 1, rank);
        Self { q: part(&self.q), k: part(&self.k), v: part(&self.v), d: part(&self.d) }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs { softcap: Some(4.0), ..Inputs::new(four(&self.q), four(&self.k), four(&self.v)) }
    }
}

fn four(x: &ArrayD<f32>) -> ArrayView4<'_, f32> {
    x.view().into_dimensionality::<Ix4>().expect("four axes")
}

/// The output, and the gradients of q, k and v.
type All = [Vec<f64>; 5];

fn numbers<'a>(x: impl IntoIterator<Item = &'a f32>) -> Vec<f64> {
    x.into_iter().map(|x| f64::from(*x)).collect()
}

fn alone(text: &Text, pattern: &dyn Pattern, cx: &Cx) -> All {
    let x = text.inputs();
    let output = softmax::chunk(&x, pattern, cx).expect("a valid call");
    let d = Cotangent { out: four(&text.d), lse: None };
    let g = softmax::backward(&x, pattern, output.view(), &d, cx).expect("a valid call");
    [numbers(&output.out), numbers(&output.lse), numbers(&g.q), numbers(&g.k), numbers(&g.v)]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Ring,
    Exchange,
}

/// The same over ranks, joined, and the bytes that each has sent forward and backward.
fn over(text: &Text, pattern: &dyn Pattern, layout: &Layout, by: By, seed: u64) -> Result<(All, Vec<[u64; 2]>), Error> {
    let parts = Threads::new(layout.ranks()).delayed(seed).run(|ranks| {
        let cx = Cx::new(1);
        let own = text.part(layout, ranks.rank());
        let (x, over) = (own.inputs(), Over { layout, pattern, ranks });
        let output = match by {
            By::Ring => ring::forward(&x, &over, &cx)?,
            By::Exchange => exchange::forward(&x, &over, &cx)?,
        };
        let forward = ranks.sent();
        let (view, d): (OutputView<'_>, _) = (output.view(), Cotangent { out: four(&own.d), lse: None });
        let g = match by {
            By::Ring => ring::backward(&x, view, &d, &over, &cx)?,
            By::Exchange => exchange::backward(&x, view, &d, &over, &cx)?,
        };
        let Output { out, lse } = output;
        let parts = [out.into_dyn(), lse.into_dyn(), g.q.into_dyn(), g.k.into_dyn(), g.v.into_dyn()];
        Ok((parts, [forward, ranks.sent() - forward]))
    })?;
    let (parts, sent): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let joined = std::array::from_fn(|i| {
        let all: Vec<ArrayD<f32>> = parts.iter().map(|part| part[i].clone()).collect();
        numbers(&layout.join(&all, 1).expect("parts of the layout"))
    });
    Ok((joined, sent))
}

#[track_caller]
fn assert_same(what: &str, got: &All, want: &All) {
    for (i, name) in ["o", "lse", "dq", "dk", "dv"].into_iter().enumerate() {
        let tolerance = if i < 2 { tolerance::FORMS } else { tolerance::GRADIENT };
        // A query that attends to nothing has a log-sum-exp of −∞ on both sides.
        let finite = |x: &[f64]| x.iter().map(|x| x.max(-1e4)).collect::<Vec<_>>();
        longreach_testkit::tolerance::assert_close(
            &format!("{what}: {name}"),
            &finite(&got[i]),
            &finite(&want[i]),
            tolerance,
        );
    }
}

#[test]
fn every_pattern_over_ranks_is_the_pattern_over_the_whole_text() {
    let mut checked = Vec::new();
    for tokens in [1, 5, 150] {
        let text = Text::new(tokens, 7);
        for (i, (name, _)) in PATTERNS.iter().enumerate() {
            let Some(pattern) = pattern(i, tokens) else { continue };
            checked.push(*name);
            let want = alone(&text, &*pattern, &Cx::new(1));
            for (ranks, spread, by) in [
                (1, Spread::Contiguous, By::Ring),
                (3, Spread::Contiguous, By::Exchange),
                (3, Spread::Zigzag, By::Ring),
                (2, Spread::Zigzag, By::Exchange),
            ] {
                let layout = Layout::new(spread, tokens, ranks);
                match over(&text, &*pattern, &layout, by, 3) {
                    Ok((got, _)) => assert_same(&format!("{name} {tokens} {ranks} {spread:?} {by:?}"), &got, &want),
                    Err(Error::Unsupported { name, .. }) => {
                        assert!(name == "bigbird" || name == "longformer", "{name}")
                    }
                    Err(error) => panic!("{name}: {error}"),
                }
            }
        }
    }
    let missing: Vec<_> = PATTERNS.iter().map(|(name, _)| name).filter(|name| !checked.contains(name)).collect();
    assert!(missing.is_empty(), "patterns that no text was checked with: {missing:?}");
}

#[test]
fn bytes_of_the_ring_are_those_of_the_formula() {
    let tokens = 520;
    let text = Text::new(tokens, 1);
    let pattern = pattern(2, tokens).expect("a window");
    for ranks in [1, 2, 4] {
        let layout = Layout::new(Spread::Zigzag, tokens, ranks);
        let (_, sent) = over(&text, &*pattern, &layout, By::Ring, 0).expect("a valid call");
        let pair = 4 * BATCH * GROUPS * (WIDTH + WIDTH);
        let forward: u64 = sent.iter().map(|sent| sent[0]).sum();
        let backward: u64 = sent.iter().map(|sent| sent[1]).sum();
        assert_eq!(forward, ((ranks - 1) * tokens * pair) as u64);
        let of_gradients = if ranks > 1 { ranks * tokens * pair } else { 0 };
        assert_eq!(backward, forward + of_gradients as u64);
    }
}

#[test]
fn a_causal_window_over_ranks_sends_its_halo_and_has_the_bits_of_one_rank() {
    let tokens = 2048;
    let text = Text::new(tokens, 1);
    let window: Box<dyn Pattern> = Box::new(softmax::window::Window { left: 127, right: 0 });
    let want = softmax::chunk(&text.inputs(), &*window, &Cx::new(1)).expect("a valid call");
    for ranks in [2, 4] {
        let layout = Layout::new(Spread::Contiguous, tokens, ranks);
        let (got, sent) = over(&text, &*window, &layout, By::Exchange, 5).expect("a valid call");
        assert_eq!(got[0], numbers(&want.out), "{ranks} ranks");
        assert_eq!(got[1], numbers(&want.lse), "{ranks} ranks");
        let pair = 4 * BATCH * GROUPS * (WIDTH + WIDTH);
        let sent: u64 = sent.iter().map(|sent| sent[0]).sum();
        // 127 keys before a part that begins at a multiple of 64 lie in two blocks.
        assert_eq!(sent, ((ranks - 1) * 128 * pair) as u64);
    }
}

#[test]
fn what_is_not_computed_over_ranks_is_refused_by_name() {
    let (text, sinks) = (Text::new(10, 1), ndarray::Array1::zeros(HEADS));
    let pattern = pattern(0, 10).expect("dense");
    let layout = Layout::new(Spread::Contiguous, 10, 2);
    let ran = Threads::new(2).run(|ranks| {
        let own = text.part(&layout, ranks.rank());
        let x = Inputs { sinks: Some(sinks.view()), ..own.inputs() };
        ring::forward(&x, &Over { layout: &layout, pattern: &*pattern, ranks }, &Cx::new(1))
    });
    assert!(matches!(&ran, Err(Error::Unsupported { message, .. }) if message.contains("`sinks`")), "{ran:?}");
    // A part of another length than the layout's.
    let ran = Threads::new(2)
        .run(|ranks| ring::forward(&text.inputs(), &Over { layout: &layout, pattern: &*pattern, ranks }, &Cx::new(1)));
    assert!(matches!(&ran, Err(Error::Attention(_))), "{ran:?}");
}

#[test]
fn a_rank_that_fails_ends_all_with_its_error() {
    let ran = Threads::new(3).run(|ranks| match ranks.rank() {
        1 => Err(Error::Transport("the disk of rank 1 is full".into())),
        _ => ranks.barrier(),
    });
    assert_eq!(ran, Err(Error::Transport("the disk of rank 1 is full".into())));
    let ran = Threads::new(2).within(std::time::Duration::from_millis(50)).run(|ranks| match ranks.rank() {
        0 => ranks.receive(1, longreach_cluster::Channel::State).map(drop),
        _ => {
            std::thread::sleep(std::time::Duration::from_millis(200));
            Ok(())
        }
    });
    assert!(matches!(ran, Err(Error::Late { rank: 1, waiting: 0, .. })), "{ran:?}");
}

#[test]
fn ranks_that_differ_are_named() {
    let ran = Threads::new(3).run(|ranks| ranks.agree("the model", ["a", "a", "b"][ranks.rank()]));
    let message = ran.expect_err("rank 2 has another").to_string();
    assert_eq!(message, "the model differs between ranks: rank 0 has a, rank 2 has b");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    /// Cuts anywhere, empty parts too, and another schedule of messages: not a bit differs between schedules.
    #[test]
    fn cuts_and_schedules_change_nothing(
        mut at in prop::collection::vec(0usize..150, 1..4),
        which in 0usize..5,
        seed in any::<u64>(),
        ring in any::<bool>(),
    ) {
        at.sort_unstable();
        let tokens = at[at.len() - 1].max(1);
        let last = at.len() - 1;
        at[last] = tokens;
        let text = Text::new(tokens, seed & 0xff);
        let layout = Layout::ending(&at).expect("cuts that rise");
        let by = if ring { By::Ring } else { By::Exchange };
        if let Some(pattern) = pattern(which, tokens) {
            let (got, _) = over(&text, &*pattern, &layout, by, seed).expect("a valid call");
            assert_same("cut", &got, &alone(&text, &*pattern, &Cx::new(1)));
            let (again, _) = over(&text, &*pattern, &layout, by, !seed).expect("a valid call");
            prop_assert_eq!(got, again);
        }
    }
}

/// No keys at all.
#[test]
fn an_empty_text_is_nothing() {
    let text = Text::new(0, 1);
    let pattern = pattern(0, 0).expect("dense");
    let layout = Layout::new(Spread::Zigzag, 0, 2);
    let (got, _) = over(&text, &*pattern, &layout, By::Ring, 1).expect("a valid call");
    assert!(got.iter().all(Vec::is_empty));
}
