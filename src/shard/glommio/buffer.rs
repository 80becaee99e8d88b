//! The buffer that a shard receives into.

use bytes::{Bytes, BytesMut};

/// Bytes below which the rest of a buffer is left unused.
const ROOM_MIN: usize = 4096;

/// One buffer, cut off piece by piece: what was received goes on without a copy, and a connection that is silent holds
/// none. The memory is freed when the last piece of a buffer is.
pub(super) struct ReceiveBuffer {
    rest: BytesMut,
    size: usize,
}

impl ReceiveBuffer {
    pub(super) fn new(size: usize) -> ReceiveBuffer {
        ReceiveBuffer { rest: BytesMut::new(), size: size.max(ROOM_MIN) }
    }

    /// Where the next bytes may be put.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.rest.len() < ROOM_MIN {
            self.rest = BytesMut::zeroed(self.size);
        }
        &mut self.rest
    }

    /// The first bytes of [`Self::room`], which have been filled.
    pub(super) fn take(&mut self, length: usize) -> Bytes {
        self.rest.split_to(length).freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_share_a_buffer_and_are_not_written_again() {
        let mut buffer = ReceiveBuffer::new(3 * ROOM_MIN);
        let mut pieces = Vec::new();
        for n in 0..100u8 {
            let room = buffer.room();
            assert!(room.len() >= ROOM_MIN);
            room[..1000].fill(n);
            pieces.push(buffer.take(1000));
        }
        assert!(pieces.iter().zip(0u8..).all(|(piece, n)| piece.iter().all(|byte| *byte == n)));
        assert_eq!(pieces[0].as_ptr().wrapping_add(1000), pieces[1].as_ptr());
    }
}
