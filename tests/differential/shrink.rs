//! Makes a failing case smaller: leaves out steps, then statements of strings, as long as it still fails in some way.

use super::case::{Case, Step};
use super::message::Message;
use std::time::{Duration, Instant};

/// Time after which the smallest case so far must do.
const LIMIT: Duration = Duration::from_secs(45);

/// The smallest case found that still fails.
pub fn shrink(case: &Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let end = Instant::now() + LIMIT;
    let mut smallest = case.clone();
    let mut attempt = |candidate: Case, smallest: &mut Case| {
        let better = Instant::now() < end && candidate != *smallest && fails(&candidate);
        if better {
            *smallest = candidate;
        }
        better
    };
    loop {
        let before = smallest.clone();
        let mut size = (smallest.steps.len() / 2).max(1);
        loop {
            let mut at = 0;
            while at < smallest.steps.len() {
                let mut candidate = smallest.clone();
                candidate.steps.drain(at..(at + size).min(smallest.steps.len()));
                if !attempt(candidate, &mut smallest) {
                    at += size;
                }
            }
            if size == 1 {
                break;
            }
            size /= 2;
        }
        for at in 0..smallest.steps.len() {
            for candidate in simpler(&smallest, at) {
                if attempt(candidate, &mut smallest) {
                    break;
                }
            }
        }
        if smallest == before || Instant::now() >= end {
            return smallest;
        }
    }
}

/// The case with something simpler in place of one step.
fn simpler(case: &Case, at: usize) -> Vec<Case> {
    let with = |m: Message| {
        let mut c = case.clone();
        c.steps[at] = Step::Send(case.steps[at].connection(), m);
        c
    };
    match &case.steps[at] {
        Step::Send(_, Message::Query(sql)) => {
            let parts: Vec<&str> = sql.split("; ").collect();
            let without = |i: usize| {
                let rest: Vec<&str> = parts.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| *p).collect();
                with(Message::query(rest.join("; ")))
            };
            if parts.len() > 1 { (0..parts.len()).map(without).collect() } else { Vec::new() }
        }
        Step::Send(_, Message::Execute(portal, rows)) if *rows != 0 => vec![with(Message::execute(portal, 0))],
        _ => Vec::new(),
    }
}
