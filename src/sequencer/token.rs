//! Names for states of the cluster.

use std::fmt;
use std::str::FromStr;

/// Number of a membership; only rises, over restarts too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names a cut: the state that holds exactly the commits up to one number, on every node of the epoch. Written as
/// `EPOCH/CSN`, both decimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SnapshotToken {
    /// The membership in force when the cut was taken.
    pub epoch: Epoch,
    /// The newest commit in it; 0 if there is none.
    pub csn: u64,
}

impl fmt::Display for SnapshotToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.csn)
    }
}

/// Not a snapshot token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no `/` between epoch and CSN.
    #[error("a snapshot token is EPOCH/CSN, for example 12/3456")]
    Form,
    /// What stands before the `/` is no number of 64 bits.
    #[error("the epoch of a snapshot token is a number from 0 to {}", u64::MAX)]
    Epoch,
    /// What stands behind the `/` is no number of 64 bits.
    #[error("the CSN of a snapshot token is a number from 0 to {}", u64::MAX)]
    Csn,
}

impl FromStr for SnapshotToken {
    type Err = TokenError;

    fn from_str(s: &str) -> Result<SnapshotToken, TokenError> {
        let (epoch, csn) = s.split_once('/').ok_or(TokenError::Form)?;
        Ok(SnapshotToken {
            epoch: Epoch(number(epoch).ok_or(TokenError::Epoch)?),
            csn: number(csn).ok_or(TokenError::Csn)?,
        })
    }
}

/// Digits only: the standard library would take a sign, too.
fn number(s: &str) -> Option<u64> {
    s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok())?
}
