//! Kept inputs, and a few made up.

use super::explain;
use crate::fuzz::kept;

#[test]
fn kept_inputs_of_the_session_hold() {
    let kept = kept("session");
    assert!(kept.len() > 10, "the kept inputs are missing");
    for (path, input) in kept {
        if std::panic::catch_unwind(|| explain(&input)).is_err() {
            panic!("{}", path.display());
        }
    }
}

#[test]
fn a_thousand_inputs_made_up_hold() {
    let mut seed = 1u64;
    for _ in 0..1000 {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed.to_be_bytes()[0]
        };
        let length = usize::from(next());
        let input: Vec<u8> = (0..length).map(|_| next()).collect();
        explain(&input);
    }
}
