//! What could happen next: the list of it, the choice, and what time does when there is nothing else.

use super::World;
use crate::sim::client::State;
use crate::sim::driver::{Far, Life};
use crate::sim::node::Step;

/// In so many of a thousand steps time passes although something could happen.
const TIME_PERMILLE: usize = 20;

/// Something that could happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    Turn(usize),
    Deliver(usize, u32),
    Carry(usize, u32),
    Connect(usize, u32),
    Ended(usize, u32),
    Node(usize, Step),
    Answer(usize),
    Client(usize),
    Health(usize),
    Fault,
    Time,
}

impl World {
    /// Lists what could happen.
    fn list(&mut self) {
        self.control.read_slot(self.now_us, &mut self.nodes);
        let mut acts = std::mem::take(&mut self.acts);
        acts.clear();
        let now = self.now();
        for (s, shard) in self.shards.iter().enumerate() {
            let port = shard.port.borrow();
            if port.is_due() || shard.until.is_some_and(|t| t <= now) {
                acts.push(Act::Turn(s));
            }
            for (i, c) in port.conns().iter().enumerate() {
                let i = u32::try_from(i).unwrap_or(u32::MAX);
                if c.lags_until > self.now_us {
                    continue;
                }
                match c.life {
                    Life::Free => continue,
                    Life::Connecting => {
                        acts.push(Act::Connect(s, i));
                        continue;
                    }
                    // What is sent to a peer that is gone comes back as an error, whether or not the shard receives.
                    Life::Open if c.paused && c.end.is_some() && !c.outward.is_empty() => acts.push(Act::Ended(s, i)),
                    Life::Open if !c.inward.is_empty() => {
                        if !c.paused {
                            acts.push(Act::Deliver(s, i));
                        }
                    }
                    Life::Open if c.end.is_some() => acts.push(Act::Ended(s, i)),
                    Life::Open => {}
                    Life::Closing if c.outward.is_empty() || c.end.is_some() => acts.push(Act::Ended(s, i)),
                    Life::Closing => {}
                    Life::Aborted => acts.push(Act::Ended(s, i)),
                }
                let comes_later = c.rest_until > self.now_us;
                if !c.outward.is_empty() && c.end.is_none() && c.life != Life::Aborted && !comes_later {
                    acts.push(Act::Carry(s, i));
                }
            }
        }
        for (n, node) in self.nodes.iter().enumerate() {
            let slow = node.pace < 100 && !self.random.percent(node.pace);
            if !slow {
                acts.extend(node.runnable(self.now_us).into_iter().map(|step| Act::Node(n, step)));
            }
        }
        acts.extend(self.control.ready(self.now_us, &self.nodes).map(Act::Answer));
        acts.extend(self.control.health_due(self.now_us).map(Act::Health));
        acts.extend(self.clients.iter().filter(|c| c.can_act()).map(|c| Act::Client(c.number)));
        if self.faults.is_possible() && self.random.below(1000) < self.faults.rate {
            acts.push(Act::Fault);
        }
        self.acts = acts;
    }

    /// Lets one thing happen. False: nothing can, and no time will change that.
    pub fn step(&mut self) -> bool {
        self.steps += 1;
        self.list();
        let acts = std::mem::take(&mut self.acts);
        let possible = acts.len();
        let chosen = match possible {
            0 => None,
            _ if self.random.below(1000) < TIME_PERMILLE => None,
            n => Some(self.random.below(n)),
        };
        let act = chosen.map_or(Act::Time, |i| acts[i]);
        self.acts = acts;
        self.trace.numbers(&[u64::try_from(self.now_us).unwrap_or(0), possible as u64]);
        self.trace.chosen(chosen.map_or(0, |i| i + 1), possible);
        // The others move bytes, or are a node's or a client's own.
        self.may_have_moved = matches!(act, Act::Turn(_) | Act::Answer(_) | Act::Health(_) | Act::Fault | Act::Time);
        match act {
            Act::Turn(s) => self.turn(s),
            Act::Deliver(s, i) => self.deliver(s, i),
            Act::Carry(s, i) => self.carry(s, i),
            Act::Connect(s, i) => self.connect(s, i),
            Act::Ended(s, i) => self.conn_ended(s, i),
            Act::Node(n, step) => self.node_step(n, step),
            Act::Answer(at) => {
                let told = self.control.answer(at, self.now_us, &mut self.nodes);
                self.trace.hash(told.as_bytes());
                self.trace.line(self.now_us, || format!("control   {told}"));
            }
            Act::Client(c) => self.client_acts(c),
            Act::Health(n) => {
                self.trace.line(self.now_us, || format!("control   looks at the health of node {n}"));
                self.control.check_health(n, self.now_us, &self.nodes);
            }
            Act::Fault => self.fault(),
            Act::Time => return self.pass(possible == 0),
        }
        true
    }

    /// Time passes: a little, or until the next thing can happen.
    fn pass(&mut self, idle: bool) -> bool {
        if !idle {
            self.now_us += self.random.between(1, 500);
            self.trace.line(self.now_us, || "time      passes".into());
            return true;
        }
        let nodes = self.nodes.iter().filter_map(|n| n.next_wakeup(self.now_us));
        // A slow node's steps are possible at any time.
        let slow = self.nodes.iter().any(|n| n.pace < 100 && !n.runnable(self.now_us).is_empty());
        let timers =
            self.shards.iter().filter_map(|s| s.until).map(|t| i64::try_from(t.0.div_ceil(1000)).unwrap_or(i64::MAX));
        let control = self.control.next_wakeup(self.now_us, &self.nodes);
        let slow = slow.then_some(self.now_us + 200);
        let lags = self.shards.iter().filter_map(|s| s.port.borrow().next_lag(self.now_us));
        let health = Some(self.control.next_health());
        let next = nodes.chain(timers).chain(control).chain(slow).chain(lags).chain(health).min();
        let Some(next) = next else { return false };
        self.now_us = self.now_us.max(next);
        self.trace.line(self.now_us, || "time      passes: nothing else is possible".into());
        true
    }

    fn turn(&mut self, s: usize) {
        let now = self.now();
        let shard = &mut self.shards[s];
        let given = {
            let mut port = shard.port.borrow_mut();
            port.now = now;
            std::mem::take(&mut port.staged_bytes)
        };
        self.largest.turn = self.largest.turn.max(given);
        if let Ok(until) = shard.shard.turn(shard.until) {
            shard.until = until;
        }
        let queued = shard.port.borrow().conns().iter().map(|c| c.outward.len()).max();
        self.largest.queue = self.largest.queue.max(queued.unwrap_or(0));
        self.trace.line(self.now_us, || format!("shard {s}   takes its turn"));
        let late = self.late;
        let random = &mut self.random;
        let delay = |_: &_| if random.percent(late) { random.between(1, 200_000) } else { random.between(0, 300) };
        self.control.collect(self.now_us, delay);
    }

    fn client_acts(&mut self, number: usize) {
        let shards = self.shards.len();
        let client = &mut self.clients[number];
        if client.state == State::Away {
            let s = self.random.below(shards);
            let i = self.shards[s].port.borrow_mut().accept(Far::Client(number));
            client.connected((s, i));
        } else {
            if !client.is_busy() {
                self.began[number] = self.steps;
            }
            client.act();
        }
        self.trace.line(self.now_us, || format!("client {number}  goes on with {}", client.doing()));
        self.client_sends(number);
    }

    /// What the client has written is on its way.
    pub(super) fn client_sends(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some((s, i)) = client.conn else { return };
        let mut port = self.shards[s].port.borrow_mut();
        let bytes = client.out.split();
        port.conn(i).inward.extend_from_slice(&bytes);
    }

    fn fault(&mut self) {
        let fault = self.choose_fault();
        if let Some(fault) = fault {
            self.trace.line(self.now_us, || format!("fault     {fault:?}"));
            self.faults.count(&fault);
            self.inflict(fault);
        }
    }
}
