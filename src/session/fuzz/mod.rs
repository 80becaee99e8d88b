//! The session under arbitrary interleavings: bytes of an input become what a client sends, what nodes and the control
//! plane answer, truly or not, what breaks and when; a model of its own says what the client may be told.
//!
//! | file | what it is for |
//! |---|---|
//! | `backend` | what nodes answer when they tell the truth |
//! | `lies` | what they answer when they do not |
//! | `model` | what a client may be told |
//! | `net` | the connections |
//! | `speak` | what clients say |
//! | `world` | all of it together, and what must hold |
//!
//! `fuzz/fuzz_targets/session.rs` makes up inputs; those that found something, or that reach far, are kept in
//! `fuzz/seeds/session` and run with the unit tests.

mod backend;
mod lies;
mod model;
mod net;
mod speak;
mod world;

use self::world::{Check, NODES, World};
use crate::session::Event;
use crate::shard::driver::{Driver, Time};

/// max_message_size of the harness.
pub const MESSAGE_MAX: usize = 12_000;

/// Steps of one input, so that none takes for ever.
const STEPS: usize = 300;

/// Timers that go off in one step: some are armed again as soon as they have.
const TIMERS: usize = 10;

/// An input, read byte by byte; behind its end there are zeros.
#[derive(Debug)]
pub struct Bytecode<'a> {
    rest: &'a [u8],
}

impl Bytecode<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }
}

/// Plays an input.
///
/// # Panics
/// Something does not hold that must; the message says what.
pub fn run(input: &[u8]) {
    if let Err(what) = play(input, &mut World::new(input.first().copied().unwrap_or(0), false)) {
        panic!("{what}");
    }
}

/// Plays an input, and says what had happened if something does not hold.
///
/// # Panics
/// As [`run`].
#[cfg(test)]
fn explain(input: &[u8]) {
    let mut world = World::new(input.first().copied().unwrap_or(0), true);
    if let Err(what) = play(input, &mut world) {
        panic!("{what}");
    }
}

fn play(input: &[u8], world: &mut World) -> Check {
    let mut code = Bytecode { rest: input.get(1..).unwrap_or_default() };
    let how = code.byte();
    world.accept();
    speak::start(how, &mut code, &mut world.backlog);
    for _ in 0..STEPS {
        let Some(op) = code.next() else { break };
        if !world.is_live() {
            world.accept();
            speak::start(op, &mut code, &mut world.backlog);
        }
        one(op, &mut code, world)?;
    }
    world.finish()
}

fn one(op: u8, code: &mut Bytecode<'_>, world: &mut World) -> Check {
    match op % 32 {
        0 | 1 => {
            let (mut speaker, mut backlog) = (std::mem::take(&mut world.speaker), std::mem::take(&mut world.backlog));
            speaker.speak(code, &mut backlog);
            (world.speaker, world.backlog) = (speaker, backlog);
            if op % 32 == 0 {
                world.client_sends(usize::MAX)?;
            }
        }
        2..=4 => world.settle()?,
        5..=7 => {
            let pick = usize::from(code.byte());
            for _ in 0..=pick >> 5 {
                world.step(pick)?;
            }
        }
        8 => {
            let n = usize::from(code.byte());
            world.client_sends(n + 1)?;
        }
        9 | 10 => {
            if let Some(i) = world.pick(code) {
                let n = code.byte();
                let cut = (n & 0x80 != 0).then_some(usize::from(n & 0x70) >> 4);
                world.deliver(i, usize::from(n & 0x0f), cut)?;
            }
        }
        11 => {
            if let Some(i) = world.pick(code) {
                world.connected(i)?;
            }
        }
        12 => {
            if let Some(i) = world.pick(code) {
                world.carry(i)?;
            }
        }
        13..=16 => {
            if let Some(i) = world.pick(code) {
                lies::tell(i, code, world)?;
            }
        }
        17 => {
            if let Some(i) = world.pick(code) {
                world.lose(i)?;
            }
        }
        18 | 19 => world.answer(code.byte())?,
        20 => {
            let until = world.core.driver.now().after(std::time::Duration::from_millis(400 * u64::from(code.byte())));
            for _ in 0..TIMERS {
                world.timer(until)?;
            }
        }
        21 => world.tell(Event::Cancel)?,
        22 => world.confirm(usize::from(code.byte()) % NODES)?,
        23 => world.go()?,
        24 => {
            // The next statement of a backend fails.
            let how = code.byte();
            let sqlstate = ["23505", "40001", "25006", "57014", "XX000"][usize::from(how) % 5];
            if let Some(i) = world.pick(code) {
                let mut net = world.net.borrow_mut();
                net.conns[i].backend.iter_mut().for_each(|b| b.fails = Some(sqlstate));
            }
        }
        25 => match code.byte() % 8 {
            0 => world.tell(Event::Drain)?,
            1 => world.tell(Event::Stop)?,
            2 => world.client_leaves()?,
            3 => world.tell(Event::Turn)?,
            4 => world.tell(Event::Watermarks)?,
            5 => world.tell(Event::CancelDone)?,
            6 => {
                // DDL of another session.
                world.env.catalogue_versions.of(&std::sync::Arc::from("d")).raise();
            }
            _ => {
                for _ in 0..TIMERS {
                    world.timer(Time(u64::MAX))?;
                }
            }
        },
        26..=28 => {
            // A right exchange, in few bytes: what reaches far should be found soon.
            let (mut speaker, mut backlog) = (std::mem::take(&mut world.speaker), std::mem::take(&mut world.backlog));
            speaker.speak(code, &mut backlog);
            (world.speaker, world.backlog) = (speaker, backlog);
            world.settle()?;
        }
        _ => {
            let (mut speaker, mut backlog) = (std::mem::take(&mut world.speaker), std::mem::take(&mut world.backlog));
            for _ in 0..=code.byte() % 4 {
                speaker.speak(code, &mut backlog);
            }
            (world.speaker, world.backlog) = (speaker, backlog);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
