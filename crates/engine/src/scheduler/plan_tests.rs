//! The laws of the scheduler, with an engine that only counts and a clock that the tests set.

use std::collections::HashMap;

use super::*;

/// An engine that takes these times, and what it has done.
struct Fake {
    plan: Plan,
    now: Duration,
    token: Duration,
    row: Duration,
    /// The requests by ticket: what was asked, the tokens each answer still has to write, and when it got its place.
    asked: HashMap<Ticket, (Waiting, usize)>,
    writing: Vec<(Ticket, usize)>,
    admitted: Vec<Ticket>,
    finished: Vec<(Ticket, Duration)>,
    gaps: Vec<Duration>,
    last_step: Option<Duration>,
    most: usize,
    spent: [Duration; 2],
}

impl Fake {
    fn new(most: usize, token: Duration, row: Duration) -> Self {
        Self {
            plan: Plan::new((most, 100), vec![64]),
            now: Duration::ZERO,
            token,
            row,
            asked: HashMap::new(),
            writing: Vec::new(),
            admitted: Vec::new(),
            finished: Vec::new(),
            gaps: Vec::new(),
            last_step: None,
            most: 0,
            spent: [Duration::ZERO; 2],
        }
    }

    fn ask(&mut self, tenant: u64, tokens: usize, write: usize) -> Ticket {
        let ticket = self.asked.len() as Ticket;
        let waiting = Waiting { ticket, tenant, model: 0, tokens, rows: 1, whole_chunks: false, bytes: 0 };
        self.asked.insert(ticket, (waiting, write));
        self.plan.wait(waiting);
        ticket
    }

    /// Does one thing; false if there is nothing to do.
    fn go(&mut self) -> bool {
        match self.plan.next() {
            Action::Admit(ticket) => {
                self.admitted.push(ticket);
                self.plan.admitted(ticket, 0);
            }
            Action::Read { ticket, tokens } => {
                assert!(tokens > 0 && tokens <= CHUNK, "{tokens}");
                let at = self.plan.at(ticket).expect("a prompt");
                let whole = self.asked[&ticket].0.tokens;
                assert!((at + tokens).is_multiple_of(64) || at + tokens == whole, "{at} + {tokens} of {whole}");
                assert_eq!(at % 64, 0, "a call begins where the tail does or before");
                let took = self.token * tokens as u32;
                self.now += took;
                self.spent[0] += took;
                if self.plan.read(ticket, tokens, took) {
                    self.writing.push((ticket, self.asked[&ticket].1));
                }
            }
            Action::Step => {
                assert!(!self.writing.is_empty());
                let took = self.row * self.writing.len() as u32;
                self.now += took;
                self.spent[1] += took;
                self.plan.stepped(took);
                self.gaps.extend(self.last_step.replace(self.now).map(|last| self.now - last));
                self.writing.iter_mut().for_each(|(_, left)| *left -= 1);
                let ended: Vec<Ticket> = self.writing.iter().filter(|(_, left)| *left == 0).map(|(t, _)| *t).collect();
                self.writing.retain(|(_, left)| *left > 0);
                self.plan.ended(ended.len());
                self.finished.extend(ended.into_iter().map(|ticket| (ticket, self.now)));
            }
            Action::Job => {
                self.now += self.token * 100;
                self.plan.did(self.token * 100);
            }
            Action::Idle => return false,
        }
        self.most = self.most.max(self.plan.rows());
        true
    }

    fn all(&mut self) {
        while self.go() {}
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn nobody_stalls_while_a_long_prompt_is_read() {
    // From a thousand to a hundred thousand tokens a second, and steps of 1 to 200 ms.
    for token in [MS, MS / 10, MS / 100] {
        for row in [MS, 20 * MS, 200 * MS] {
            let mut fake = Fake::new(8, token, row);
            fake.ask(1, 10, 2_000);
            while fake.writing.is_empty() {
                fake.go();
            }
            fake.ask(2, 100_000, 1);
            while fake.finished.is_empty() && fake.go() {}
            let most = *fake.gaps.iter().max().expect("gaps");
            // The stall, the step of at most two, and what a chunk of the smallest size can run over.
            let law = STALL.max(row) + 2 * row + token * 64;
            assert!(most <= law, "{token:?} a token, {row:?} a step: {most:?} exceeds {law:?}");
        }
    }
}

#[test]
fn reading_goes_on_while_others_write() {
    for row in [MS, 49 * MS, 300 * MS] {
        let mut fake = Fake::new(8, MS / 10, row);
        (0..4).for_each(|_| {
            fake.ask(1, 5, 1_000_000);
        });
        while fake.writing.len() < 4 {
            fake.go();
        }
        fake.spent = [Duration::ZERO; 2];
        let ticket = fake.ask(2, 50_000, 1);
        while fake.plan.at(ticket).is_some() || !fake.admitted.contains(&ticket) {
            assert!(fake.go());
        }
        let [reading, writing] = fake.spent;
        // Writing had at most half of the time; a chunk that does not fit any more is left for the next turn.
        assert!(reading.as_secs_f64() >= 0.8 * writing.as_secs_f64(), "{reading:?} and {writing:?}");
    }
}

#[test]
fn a_hundred_requests_of_one_tenant_delay_another_by_one_admission() {
    let mut fake = Fake::new(1, MS / 10, MS);
    (0..100).for_each(|_| {
        fake.ask(1, 500, 3);
    });
    (0..200).for_each(|_| {
        fake.go();
    });
    let before = fake.admitted.len();
    assert!(before < 90, "{before} are in already");
    let late = fake.ask(2, 9_000, 1);
    fake.all();
    let at = fake.admitted.iter().position(|ticket| *ticket == late).expect("admitted");
    assert!(at <= before + 1, "admitted as number {at}, after {before}");
    // Within a tenant, first come is first served.
    let own: Vec<Ticket> = fake.admitted.iter().copied().filter(|ticket| *ticket != late).collect();
    assert!(own.is_sorted());
    assert_eq!(fake.finished.len(), 101);
}

#[test]
fn prompts_of_two_tenants_are_read_in_turn_and_a_short_one_goes_first() {
    let mut fake = Fake::new(8, MS, MS);
    let long = fake.ask(1, 20_000, 1);
    let longer = fake.ask(1, 20_000, 1);
    let other = fake.ask(2, 20_000, 1);
    (0..23).for_each(|_| {
        fake.go();
    });
    let at = |fake: &Fake, ticket| fake.plan.at(ticket).expect("a prompt");
    assert_eq!([at(&fake, long), at(&fake, longer), at(&fake, other)], [10 * CHUNK, 0, 10 * CHUNK]);
    let short = fake.ask(1, 100, 1);
    // Its admission, its two calls, and at most one of the other tenant's between them.
    (0..6).for_each(|_| {
        fake.go();
    });
    assert!(fake.finished.iter().any(|(ticket, _)| *ticket == short) || !fake.writing.is_empty());
    fake.all();
    let place = |ticket| fake.finished.iter().position(|(finished, _)| *finished == ticket);
    assert!(place(short) < place(other) && place(other) < place(longer));
}

#[test]
fn no_more_run_than_may_and_all_are_answered() {
    let mut fake = Fake::new(3, MS / 100, MS);
    for i in 0..50 {
        fake.ask(i % 4, 1 + (i as usize * 97) % 700, 1 + (i as usize * 13) % 40);
    }
    fake.plan.job();
    fake.all();
    assert_eq!((fake.most, fake.finished.len(), fake.plan.rows()), (3, 50, 0));
}

#[test]
fn what_is_gone_frees_its_place() {
    let mut fake = Fake::new(1, MS, MS);
    let first = fake.ask(1, 10_000, 1);
    let second = fake.ask(1, 10, 1);
    let third = fake.ask(1, 10, 1);
    fake.go();
    fake.go();
    assert!(fake.plan.at(first).is_some());
    // One in the queue, and one whose prompt is read.
    fake.plan.remove(second);
    fake.plan.remove(first);
    fake.all();
    assert_eq!(fake.admitted, [first, third]);
}

#[test]
fn jobs_and_prompts_take_turns_and_neither_stops_writing() {
    let mut fake = Fake::new(4, MS / 2, 5 * MS);
    fake.ask(1, 10, 500);
    while fake.writing.is_empty() {
        fake.go();
    }
    fake.ask(1, 64_000, 1);
    (0..20).for_each(|_| fake.plan.job());
    let mut order = Vec::new();
    for _ in 0..80 {
        order.push(std::mem::discriminant(&fake.plan.next()));
        fake.go();
    }
    let of = |action: Action| order.iter().filter(|done| **done == std::mem::discriminant(&action)).count();
    assert!(of(Action::Job) >= 10 && of(Action::Read { ticket: 0, tokens: 0 }) >= 10 && of(Action::Step) >= 10);
    let most = *fake.gaps.iter().max().expect("gaps");
    assert!(most <= STALL + 5 * MS + 50 * MS + 32 * MS, "{most:?}");
}

#[test]
fn states_run_as_far_as_their_bytes_fit() {
    let mut plan = Plan::new((9, 100), vec![64]);
    let wait = |plan: &mut Plan, ticket, bytes| {
        plan.wait(Waiting { ticket, tenant: 0, model: 0, tokens: 10, rows: 1, whole_chunks: false, bytes });
    };
    // One that is larger than all has a place if it is alone.
    wait(&mut plan, 0, 500);
    assert_eq!(plan.next(), Action::Admit(0));
    plan.admitted(0, 0);
    plan.hold(500);
    wait(&mut plan, 1, 60);
    assert_ne!(plan.next(), Action::Admit(1));
    plan.remove(0);
    plan.hold(0);
    assert_eq!(plan.next(), Action::Admit(1));
    plan.admitted(1, 0);
    plan.hold(60);
    wait(&mut plan, 2, 41);
    assert_ne!(plan.next(), Action::Admit(2));
    plan.hold(59);
    assert_eq!(plan.next(), Action::Admit(2));
}
