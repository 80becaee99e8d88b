//! What a completion belongs to: the 64 bits that the kernel carries from a submission to its completion.
//!
//! ```text
//!  63      56 55                    32 31                                      0
//! | operation |      generation        |  slot (or the listener's position)     |
//! ```

use crate::shard::slots::GENERATION_BITS;

/// The operations that this driver submits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Operation {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Connect = 4,
    /// Cancels operations of a connection; always its own completion.
    Cancel = 5,
    /// Waits for the doorbell's eventfd.
    Bell = 6,
    /// Cancels a listener's accept.
    Stop = 7,
}

/// Who submitted an operation, and which one it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    pub(super) operation: Operation,
    /// Of the slot when the operation was submitted, cut to [`GENERATION_BITS`].
    pub(super) generation: u32,
    /// Slot of the connection; position of the listener for `Accept` and `Stop`.
    pub(super) index: u32,
}

impl Tag {
    pub(super) fn pack(self) -> u64 {
        let generation = u64::from(self.generation & ((1 << GENERATION_BITS) - 1));
        (self.operation as u64) << 56 | generation << 32 | u64::from(self.index)
    }

    /// The inverse of [`Tag::pack`]; `None` for bits that this driver never submitted.
    pub(super) fn unpack(bits: u64) -> Option<Tag> {
        let operation = match bits >> 56 {
            1 => Operation::Accept,
            2 => Operation::Receive,
            3 => Operation::Send,
            4 => Operation::Connect,
            5 => Operation::Cancel,
            6 => Operation::Bell,
            7 => Operation::Stop,
            _ => return None,
        };
        let generation = (bits >> 32) as u32 & ((1 << GENERATION_BITS) - 1);
        Some(Tag { operation, generation, index: bits as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back_from_the_kernel_as_it_left() {
        use Operation::*;
        for operation in [Accept, Receive, Send, Connect, Cancel, Bell, Stop] {
            let tag = Tag { operation, generation: 0x00ab_cdef, index: u32::MAX };
            assert_eq!(Tag::unpack(tag.pack()), Some(tag));
        }
        assert_eq!(Tag::unpack(0), None);
        assert_eq!(Tag::unpack(u64::MAX), None);
    }
}
