//! Requests that run together on one engine are answered as each is alone, and each by itself can fail, wait or go.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use longreach_engine::scheduler::{Event, Failure, Limits, Refused, Request, Scheduler};
use longreach_engine::{CacheConfig, Cancel, Engine, Sampler, Sampling, Speculation, StateCache};

#[path = "../../server/tests/server/tiny.rs"]
#[allow(dead_code, reason = "shared with the server's tests")]
mod tiny;

/// What a request was told, without times.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// The tokens, the text and the log-probabilities of each answer.
    ids: Vec<Vec<u32>>,
    text: Vec<String>,
    logprobs: Vec<Vec<u64>>,
    scored: Vec<u64>,
    ended: usize,
}

fn listen(told: &Receiver<Event>) -> Result<Told, Failure> {
    let mut all = Told::default();
    let grow = |all: &mut Told, choice: usize| {
        while all.ids.len() <= choice {
            all.ids.push(Vec::new());
            all.text.push(String::new());
            all.logprobs.push(Vec::new());
        }
    };
    loop {
        match told.recv_timeout(Duration::from_secs(300)).expect("an event") {
            Event::Started { .. } | Event::Read { .. } | Event::State(_) => {}
            Event::Scored(scored) => all.scored.extend(scored.iter().map(|l| l.logprob.to_bits())),
            Event::Wrote(wrote) => {
                grow(&mut all, wrote.choice);
                all.ids[wrote.choice].push(wrote.id);
                all.text[wrote.choice].push_str(&wrote.text);
                all.logprobs[wrote.choice].extend(wrote.logprob.map(|l| l.logprob.to_bits()));
            }
            Event::Ended { choice, text, .. } => {
                grow(&mut all, choice);
                all.text[choice].push_str(&text);
                all.ended += 1;
            }
            Event::Done => return Ok(all),
            Event::Failed(failure) => return Err(failure),
        }
    }
}

fn ask(scheduler: &Scheduler, change: impl FnOnce(&mut Request)) -> Receiver<Event> {
    let (tell, told) = channel();
    let mut request = scheduler.request(0, vec![1], move |event| tell.send(event).is_ok());
    change(&mut request);
    scheduler.submit(request).expect("taken");
    told
}

/// Request `i` of many that differ in everything.
fn varied(i: u64, request: &mut Request) {
    let length = [3, 64, 130, 270, 1, 65, 200, 600][i as usize % 8];
    request.tenant = i % 3;
    request.prompt = (0..length).map(|t| ((t * t + 7 * t + i * 31) % 256) as u32).collect();
    request.choices = 1 + (i % 3) as usize;
    request.most = 1 + (i as usize * 5) % 23;
    request.logprobs = i.is_multiple_of(2).then_some(2);
    request.prompt_logprobs = (i % 8 == 2).then_some(0);
    request.ends = vec![256, 7, 99];
    request.stops = vec!["ab".into(), "\u{fffd}\u{fffd}\u{fffd}".into()];
    request.sampling = match i % 3 {
        0 => Sampling::greedy(),
        1 => Sampling { seed: i, temperature: 1.3, ..Sampling::default() },
        _ => Sampling { seed: 3, repetition_penalty: 1.2, presence_penalty: 0.3, ..Sampling::default() },
    };
}

const MIXERS: [&str; 6] = [
    r#""mixer": {"type": "dense"}"#,
    r#""mixer": {"type": "window", "window": 40}"#,
    r#""mixer": {"type": "mamba2"}"#,
    r#""mixer": {"type": "gated_delta"}"#,
    r#""mixer": {"type": "rwkv7"}"#,
    r#""mixer": {"type": "linear_attention"}"#,
];

#[test]
fn company_changes_nothing() {
    for mixer in MIXERS {
        let scheduler =
            Scheduler::start(vec![tiny::engine(mixer)], Limits { running: 24, waiting: 99, ..Limits::default() });
        let alone: Vec<Told> =
            (0..9).map(|i| listen(&ask(&scheduler, |request| varied(i, request))).expect("an answer")).collect();
        assert!(alone.iter().any(|told| told.ids.iter().any(|ids| ids.len() > 5)), "{mixer}");
        let together: Vec<Receiver<Event>> = (0..9)
            .rev()
            .map(|i| {
                // They come and go at different steps.
                std::thread::sleep(Duration::from_millis(i % 4));
                ask(&scheduler, |request| varied(i, request))
            })
            .collect();
        for (i, told) in (0..9).rev().zip(&together) {
            assert!(listen(told).expect("an answer") == alone[i], "{mixer}: request {i}");
        }
    }
}

#[test]
fn an_answer_is_that_of_a_session() {
    let engine = tiny::engine(MIXERS[2]);
    let scheduler = Scheduler::start(vec![engine.clone()], Limits::default());
    let prompt: Vec<u32> = (0..50).map(|t| t * 3 % 256).collect();
    let sampling = Sampling { seed: 5, temperature: 1.0, ..Sampling::default() };
    let told = ask(&scheduler, |request| {
        (request.prompt, request.most, request.sampling) = (prompt.clone(), 20, sampling.clone());
        request.choices = 3;
    });
    let told = listen(&told).expect("an answer");
    let mut session = engine.session();
    session.read(&prompt).expect("read");
    for (choice, ids) in told.ids.iter().enumerate() {
        let mut sampler = Sampler::new(sampling.clone()).expect("options").stream(choice as u64);
        let mut own = Vec::new();
        let each = |id| {
            own.push(id);
            Ok::<_, longreach_engine::Error>(std::ops::ControlFlow::Continue(()))
        };
        session.clone().generate(&mut sampler, 20, &mut Speculation::none(), each).expect("generated");
        assert_eq!(ids, &own, "answer {choice}");
    }
    assert!(told.ids[0] != told.ids[1], "streams differ");
}

#[test]
fn a_prompt_that_comes_twice_at_once_is_read_once() {
    let engine = tiny::engine(MIXERS[0]);
    let scheduler = Scheduler::start(vec![engine], Limits::default());
    let prompt = |end: u32| -> Vec<u32> { (0..1_000u32).map(|t| t * 7 % 250).chain([end]).collect() };
    let options = |end: u32| {
        move |request: &mut Request| {
            (request.prompt, request.most, request.sampling) = (prompt(end), 3, Sampling::greedy());
        }
    };
    let alone: Vec<Told> = [1, 1, 2].map(|end| listen(&ask(&scheduler, options(end))).expect("an answer")).into();
    let before = scheduler.numbers().read;
    assert_eq!(before, 3 * 1_001);
    let together = [1, 1, 2].map(|end| ask(&scheduler, options(end)));
    for (told, alone) in together.iter().zip(alone) {
        assert_eq!(listen(told).expect("an answer"), alone);
    }
    // The second is the same text, and the third another one after 1,000 tokens, of which 960 are whole groups of 64.
    assert_eq!(scheduler.numbers().read - before, 1_001 + 41);
}

#[test]
fn one_that_leaves_hands_its_followers_on() {
    let engine = tiny::engine(MIXERS[2]);
    let scheduler = Scheduler::start(vec![engine], Limits::default());
    // Long enough that it is still read when it is cancelled.
    let prompt: Vec<u32> = (0..30_000u32).map(|t| t * 7 % 250).collect();
    let (first, cancel) = (prompt.clone(), Cancel::default());
    let flag = cancel.clone();
    let told = ask(&scheduler, move |request| (request.prompt, request.most, request.cancel) = (first, 1, flag));
    while !matches!(told.recv().expect("an event"), Event::Read { .. }) {}
    let follower = ask(&scheduler, |request| (request.prompt, request.most) = (prompt, 1));
    std::thread::sleep(Duration::from_millis(20));
    cancel.cancel();
    assert!(matches!(listen(&told), Err(Failure::Cancelled)));
    assert_eq!(listen(&follower).expect("an answer").ended, 1);
}

#[test]
fn cancelled_wherever_it_is_and_nobody_else_notices() {
    let scheduler =
        Scheduler::start(vec![tiny::engine(MIXERS[2])], Limits { running: 2, waiting: 9, ..Limits::default() });
    let alone = listen(&ask(&scheduler, |request| varied(3, request)));
    let endless = |request: &mut Request| (request.most, request.sampling) = (1_000_000, Sampling::greedy());
    let flags: [Cancel; 3] = Default::default();
    // One that writes, one whose prompt is read, one that waits.
    let writing = ask(&scheduler, |r| {
        endless(r);
        r.cancel = flags[0].clone()
    });
    while !matches!(writing.recv().expect("an event"), Event::Wrote(_)) {}
    let reading = ask(&scheduler, |r| {
        endless(r);
        r.cancel = flags[1].clone();
        r.prompt = vec![5; 100_000]
    });
    while !matches!(reading.recv().expect("an event"), Event::Read { .. }) {}
    let waiting = ask(&scheduler, |r| {
        endless(r);
        r.cancel = flags[2].clone()
    });
    for (flag, told) in flags.iter().zip([&writing, &reading, &waiting]).rev() {
        flag.cancel();
        assert!(matches!(listen(told), Err(Failure::Cancelled)));
    }
    // One that nobody listens to is cancelled, too.
    drop(ask(&scheduler, endless));
    let start = Instant::now();
    while scheduler.numbers().running + scheduler.numbers().waiting > 0 {
        assert!(start.elapsed() < Duration::from_secs(200), "{:?}", scheduler.numbers());
        std::thread::sleep(Duration::from_millis(1));
    }
    let again = listen(&ask(&scheduler, |request| {
        varied(3, request);
        request.choices = 1
    }));
    assert_eq!(again.expect("an answer").ids[0], alone.map(|told| told.ids[0].clone()).unwrap_or_default());
}

#[test]
fn the_queue_is_bounded_and_closing_refuses_it() {
    let scheduler =
        Scheduler::start(vec![tiny::engine(MIXERS[0])], Limits { running: 1, waiting: 2, ..Limits::default() });
    let endless = |request: &mut Request| (request.most, request.sampling) = (1_000_000, Sampling::greedy());
    let running = ask(&scheduler, endless);
    while !matches!(running.recv().expect("an event"), Event::Wrote(_)) {}
    let waiting = [ask(&scheduler, endless), ask(&scheduler, endless)];
    let more = scheduler.submit(scheduler.request(0, vec![1], |_| true));
    assert_eq!(more.err(), Some(Refused::Full { waiting: 2 }));
    let wide = Request { choices: 2, ..scheduler.request(0, vec![1], |_| true) };
    assert_eq!(scheduler.submit(wide).err(), Some(Refused::Choices { choices: 2, most: 1 }));
    assert_eq!(scheduler.submit(scheduler.request(0, Vec::new(), |_| true)).err(), Some(Refused::Empty));
    scheduler.close();
    for told in &waiting {
        assert!(matches!(listen(told), Err(Failure::Closing)));
    }
    // What runs goes on until it is stopped.
    assert!(matches!(running.recv_timeout(Duration::from_secs(200)), Ok(Event::Wrote(_))));
    assert_eq!(scheduler.submit(scheduler.request(0, vec![1], |_| true)).err(), Some(Refused::Closing));
    scheduler.stop();
    assert!(matches!(listen(&running), Err(Failure::Cancelled)));
}

#[test]
fn a_fault_ends_its_own_request() {
    let scheduler = Scheduler::start(vec![tiny::engine(MIXERS[2])], Limits::default());
    let before = listen(&ask(&scheduler, |request| varied(2, request))).expect("an answer");
    let long = ask(&scheduler, |request| varied(2, request));
    // An option that the sampler refuses, a token that the model has not, and a job that panics.
    let bad = ask(&scheduler, |request| request.sampling.temperature = f32::NAN);
    assert!(matches!(listen(&bad), Err(Failure::Engine(_))));
    let bad = ask(&scheduler, |request| request.prompt = vec![9_999]);
    assert!(matches!(listen(&bad), Err(Failure::Engine(_))));
    std::panic::set_hook(Box::new(|_| {}));
    scheduler.job(|| panic!("a job's fault"));
    assert_eq!(listen(&long).expect("an answer"), before);
    let (done, told) = channel();
    scheduler.job(move || done.send(5).expect("sent"));
    assert_eq!(told.recv_timeout(Duration::from_secs(200)), Ok(5));
    let _ = std::panic::take_hook();
}

#[test]
fn kept_states_change_no_bit_and_are_not_read_again() {
    let cache = StateCache::open(CacheConfig { ram: 64 << 20, ..CacheConfig::default() }).expect("a cache");
    for mixer in [MIXERS[0], MIXERS[3]] {
        let engine = tiny::engine(mixer);
        let alone = Scheduler::start(vec![engine.clone()], Limits::default());
        let scheduler = Scheduler::start_with(vec![engine], Limits::default(), Some(cache.clone()));
        let options = |end: u32| {
            move |request: &mut Request| {
                (request.most, request.logprobs, request.choices) = (4, Some(1), 2);
                request.prompt = (0..500u32).map(|t| t * 11 % 250).chain([end]).collect();
            }
        };
        for (end, read) in [(1, 501), (1, 0), (2, 501 - 448), (2, 0)] {
            let before = scheduler.numbers().read;
            let got = listen(&ask(&scheduler, options(end))).expect("an answer");
            assert!(got == listen(&ask(&alone, options(end))).expect("an answer"), "{mixer}: {end}");
            assert_eq!(scheduler.numbers().read - before, read, "{mixer}: {end}");
        }
        // Another tenant reads it all.
        let before = scheduler.numbers().read;
        let told = ask(&scheduler, |request| {
            options(2)(request);
            request.tenant = 5;
        });
        assert_eq!(listen(&told).expect("an answer").ended, 2);
        assert_eq!(scheduler.numbers().read - before, 501);
    }
}

#[test]
fn two_models_run_side_by_side() {
    let engines: Vec<Engine> = MIXERS[..2].iter().map(|mixer| tiny::engine(mixer)).collect();
    let scheduler = Scheduler::start(engines, Limits::default());
    let one = |model: usize| {
        ask(&scheduler, move |request| {
            varied(6, request);
            request.model = model;
        })
    };
    let alone = [0, 1].map(|model| listen(&one(model)).expect("an answer"));
    let together = [0, 1, 0, 1].map(one);
    for (i, told) in together.iter().enumerate() {
        assert_eq!(listen(told).expect("an answer"), alone[i % 2]);
    }
    assert!(alone[0] != alone[1]);
}
