//! Cutting byte streams into messages.
//!
//! [`BackendFramer`] serves the relay: it reports where in the current chunk each message lies, so that runs of
//! messages leave as one slice of the buffer they came in with. Only what must be looked at whole and was cut by the
//! network is copied. [`FrontendFramer`] collects whole messages, since every client message must be understood.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a message's header: tag and length.
pub const HEADER: usize = 5;

/// The longest CopyData message that a server takes, its tag not counted (`PQ_LARGE_MESSAGE_LIMIT` in libpq.h).
pub const COPY_DATA_MAX: usize = 0x3fff_fffe;

/// A client's CopyData message that is longer than this, in bytes, is taken in parts.
const COPY_PART: usize = 64 * 1024;

/// The stream is not PostgreSQL's protocol, or a message exceeds its bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// A length below 4, which counts itself.
    #[error("message '{}' with length {length}, which is less than 4", tag.escape_ascii())]
    Length { tag: u8, length: u32 },
    /// More than the bound: `max_message_size`, or less for a client that has not proved itself.
    #[error("message '{}' of {length} bytes exceeds the limit of {limit} bytes", tag.escape_ascii())]
    TooLarge { tag: u8, length: u32, limit: usize },
}

/// A message of a client, whole: header and body.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The message's type byte.
    pub tag: u8,
    /// Header and body as they came.
    pub raw: Bytes,
}

impl Frame {
    /// The body, without the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.raw[HEADER..]
    }
}

fn header(bytes: &[u8]) -> Option<(u8, u32)> {
    let h: [u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
    Some((h[0], u32::from_be_bytes([h[1], h[2], h[3], h[4]])))
}

/// Length (itself included) of a client's message that holds no more than names (`PQ_SMALL_MESSAGE_LIMIT` in libpq.h).
const SMALL_MESSAGE_MAX: usize = 10_000;

/// The bound of a client's message of this type, header included (`SocketBackend` in postgres.c).
fn client_limit(tag: u8, limit: usize) -> usize {
    match tag {
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => limit.min(SMALL_MESSAGE_MAX + 1),
        _ => limit,
    }
}

fn total(tag: u8, length: u32, limit: usize) -> Result<usize, FrameError> {
    if length < 4 {
        return Err(FrameError::Length { tag, length });
    }
    let total = length as usize + 1;
    if total > limit {
        return Err(FrameError::TooLarge { tag, length, limit });
    }
    Ok(total)
}

/// Collects a client's messages.
///
/// Invariant: `carry` holds the beginning of at most one message, and only when that message is incomplete.
#[derive(Debug)]
pub struct FrontendFramer {
    chunk: Bytes,
    carry: BytesMut,
    limit: usize,
    /// Long CopyData messages come out as several ones.
    parts: bool,
    /// What is still to come of one that does.
    missing: usize,
}

impl FrontendFramer {
    /// `limit` bounds one message, header included (`max_message_size`).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        FrontendFramer { chunk: Bytes::new(), carry: BytesMut::new(), limit, parts: false, missing: 0 }
    }

    /// Sets another bound for the messages from here on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// From here on a long CopyData message comes out as several ones, as its bytes arrive, and `limit` does not bind it
    /// ([`COPY_DATA_MAX`] does): to a server the bounds of these messages mean nothing (protocol-flow, "COPY Operations").
    pub fn cut_copy_data(&mut self) {
        self.parts = true;
    }

    /// Adds what arrived. Call [`Self::next_frame`] until it gives nothing before pushing again.
    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.chunk.len() + chunk.len());
            joined.extend_from_slice(&self.chunk);
            joined.extend_from_slice(&chunk);
            self.chunk = joined.freeze();
        }
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// The stream cannot be followed any further.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.missing > 0 {
            return Ok(self.copy_part());
        }
        if self.carry.is_empty() {
            let Some((tag, length)) = header(&self.chunk) else {
                return Ok(self.carry_rest());
            };
            let total = self.total(tag, length)?;
            if self.chunk.len() < total {
                if self.cuts(tag, total) {
                    self.chunk.advance(HEADER);
                    self.missing = total - HEADER;
                    return Ok(self.copy_part());
                }
                // The bound was checked above; room is taken as bytes arrive, so a lying length costs nothing.
                return Ok(self.carry_rest());
            }
            return Ok(Some(Frame { tag, raw: self.chunk.split_to(total) }));
        }
        if !fill(&mut self.carry, &mut self.chunk, HEADER) {
            return Ok(None);
        }
        let (tag, length) = header(&self.carry).unwrap_or((0, 0)); // five bytes are there: filled just above
        let total = self.total(tag, length)?;
        if self.carry.len() == HEADER && self.cuts(tag, total) {
            self.carry.clear();
            self.missing = total - HEADER;
            return Ok(self.copy_part());
        }
        if !fill(&mut self.carry, &mut self.chunk, total) {
            return Ok(None);
        }
        Ok(Some(Frame { tag, raw: std::mem::take(&mut self.carry).freeze() }))
    }

    fn total(&self, tag: u8, length: u32) -> Result<usize, FrameError> {
        let limit = if self.parts && tag == b'd' { COPY_DATA_MAX + 1 } else { client_limit(tag, self.limit) };
        total(tag, length, limit)
    }

    fn cuts(&self, tag: u8, total: usize) -> bool {
        self.parts && tag == b'd' && total > COPY_PART
    }

    /// What has come of a long CopyData message, as a message of its own.
    fn copy_part(&mut self) -> Option<Frame> {
        let n = self.missing.min(self.chunk.len());
        let length = u32::try_from(n + 4).ok().filter(|_| n > 0)?;
        let mut raw = BytesMut::with_capacity(HEADER + n);
        raw.extend_from_slice(b"d");
        raw.extend_from_slice(&length.to_be_bytes());
        raw.extend_from_slice(&self.chunk.split_to(n));
        self.missing -= n;
        Some(Frame { tag: b'd', raw: raw.freeze() })
    }

    fn carry_rest(&mut self) -> Option<Frame> {
        self.carry.extend_from_slice(&self.chunk);
        self.chunk = Bytes::new();
        None
    }
}

/// Moves bytes from `chunk` until `carry` holds `want`; true when it does.
fn fill(carry: &mut BytesMut, chunk: &mut Bytes, want: usize) -> bool {
    let n = want.saturating_sub(carry.len()).min(chunk.len());
    carry.extend_from_slice(&chunk[..n]);
    chunk.advance(n);
    carry.len() >= want
}

/// Where a piece of a server's stream lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the current chunk ([`BackendFramer::chunk`]).
    Chunk(Range<usize>),
    /// It was cut by the network and has been collected.
    Carried(Bytes),
}

/// One message of a server, or a part of one that may pass through in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The message's type byte.
    pub tag: u8,
    /// Where its bytes are.
    pub place: Place,
    /// The message begins with this piece (its header is in it).
    pub first: bool,
    /// The message ends with this piece.
    pub last: bool,
}

/// Follows a server's stream header by header.
#[derive(Debug)]
pub struct BackendFramer {
    chunk: Bytes,
    at: usize,
    carry: BytesMut,
    /// Tag and missing bytes of a message that passes in parts.
    passing: Option<(u8, usize)>,
    limit: usize,
}

/// DataRow and CopyData are never looked at whole: they may be a gigabyte.
fn passes_in_parts(tag: u8) -> bool {
    tag == b'D' || tag == b'd'
}

impl BackendFramer {
    /// `limit` bounds messages that must be collected (`max_message_size`); rows and COPY data have none.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        BackendFramer { chunk: Bytes::new(), at: 0, carry: BytesMut::new(), passing: None, limit }
    }

    /// Sets the chunk to look at; the one before must have been used up.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.at >= self.chunk.len(), "a chunk was left half read");
        self.chunk = chunk;
        self.at = 0;
    }

    /// The chunk that [`Place::Chunk`] ranges refer to.
    #[must_use]
    pub fn chunk(&self) -> &Bytes {
        &self.chunk
    }

    /// The bytes of a piece.
    #[must_use]
    pub fn bytes<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match &piece.place {
            Place::Chunk(r) => &self.chunk[r.clone()],
            Place::Carried(b) => b,
        }
    }

    /// The next piece of the current chunk; `None` when the chunk is used up.
    ///
    /// # Errors
    /// The stream cannot be followed any further.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, FrameError> {
        if let Some((tag, missing)) = self.passing {
            return Ok(self.pass_on(tag, missing));
        }
        if !self.carry.is_empty() {
            return self.collect();
        }
        let rest = &self.chunk[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let Some((tag, length)) = header(rest) else {
            return Ok(self.begin_carry());
        };
        let limit = if passes_in_parts(tag) { usize::MAX } else { self.limit };
        let total = total(tag, length, limit)?;
        if rest.len() >= total {
            let place = Place::Chunk(self.at..self.at + total);
            self.at += total;
            return Ok(Some(Piece { tag, place, first: true, last: true }));
        }
        if passes_in_parts(tag) {
            let place = Place::Chunk(self.at..self.chunk.len());
            self.passing = Some((tag, total - rest.len()));
            self.at = self.chunk.len();
            return Ok(Some(Piece { tag, place, first: true, last: false }));
        }
        Ok(self.begin_carry())
    }

    fn begin_carry(&mut self) -> Option<Piece> {
        self.carry.extend_from_slice(&self.chunk[self.at..]);
        self.at = self.chunk.len();
        None
    }

    fn pass_on(&mut self, tag: u8, missing: usize) -> Option<Piece> {
        let n = missing.min(self.chunk.len() - self.at);
        if n == 0 {
            return None;
        }
        let place = Place::Chunk(self.at..self.at + n);
        self.at += n;
        self.passing = (n < missing).then_some((tag, missing - n));
        Some(Piece { tag, place, first: false, last: n == missing })
    }

    fn collect(&mut self) -> Result<Option<Piece>, FrameError> {
        let mut rest = self.chunk.slice(self.at..);
        let before = rest.len();
        let done = fill(&mut self.carry, &mut rest, HEADER);
        self.at += before - rest.len();
        if !done {
            return Ok(None);
        }
        let (tag, length) = header(&self.carry).unwrap_or((0, 0)); // five bytes are there: filled just above
        let parts = passes_in_parts(tag);
        let total = total(tag, length, if parts { usize::MAX } else { self.limit })?;
        if parts {
            // Only its header was cut: give that out as the first part and let the body pass.
            let missing = total - self.carry.len();
            let place = Place::Carried(std::mem::take(&mut self.carry).freeze());
            self.passing = (missing > 0).then_some((tag, missing));
            return Ok(Some(Piece { tag, place, first: true, last: missing == 0 }));
        }
        let before = rest.len();
        let done = fill(&mut self.carry, &mut rest, total);
        self.at += before - rest.len();
        if !done {
            return Ok(None);
        }
        let place = Place::Carried(std::mem::take(&mut self.carry).freeze());
        Ok(Some(Piece { tag, place, first: true, last: true }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut m = vec![tag];
        m.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        m.extend_from_slice(body);
        m
    }

    proptest! {
        #[test]
        fn however_the_network_cuts_it_the_backend_stream_comes_out_unchanged(
            messages in proptest::collection::vec((prop_oneof![Just(b'D'), Just(b'C'), Just(b'd'), Just(b'Z'), Just(b'T')],
                proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in proptest::collection::vec(1usize..30, 1..60),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(t, b)| message(*t, b)).collect();
            let mut framer = BackendFramer::new(1000);
            let (mut out, mut ends, mut at, mut k) = (Vec::new(), Vec::new(), 0, 0);
            while at < stream.len() {
                let n = cuts[k % cuts.len()].min(stream.len() - at);
                k += 1;
                framer.push(Bytes::copy_from_slice(&stream[at..at + n]));
                at += n;
                while let Some(p) = framer.next_piece().unwrap() {
                    out.extend_from_slice(framer.bytes(&p));
                    if p.last { ends.push(p.tag); }
                    prop_assert!(passes_in_parts(p.tag) || (p.first && p.last));
                }
            }
            prop_assert_eq!(out, stream);
            prop_assert_eq!(ends, messages.iter().map(|m| m.0).collect::<Vec<_>>());
        }

        #[test]
        fn however_the_network_cuts_it_client_messages_come_out_whole(
            messages in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in proptest::collection::vec(1usize..30, 1..60),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(t, b)| message(*t, b)).collect();
            let mut framer = FrontendFramer::new(1000);
            let (mut out, mut at, mut k) = (Vec::new(), 0, 0);
            while at < stream.len() {
                let n = cuts[k % cuts.len()].min(stream.len() - at);
                k += 1;
                framer.push(Bytes::copy_from_slice(&stream[at..at + n]));
                at += n;
                while let Some(f) = framer.next_frame().unwrap() { out.push((f.tag, f.body().to_vec())); }
            }
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn random_bytes_end_in_an_error_or_in_waiting_never_in_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut f = FrontendFramer::new(1000);
            f.push(Bytes::from(bytes.clone()));
            while let Ok(Some(_)) = f.next_frame() {}
            let mut b = BackendFramer::new(1000);
            b.push(Bytes::from(bytes));
            while let Ok(Some(_)) = b.next_piece() {}
        }
    }

    #[test]
    fn a_long_message_of_copy_data_comes_out_in_parts_wherever_the_network_cuts_it() {
        let body: Vec<u8> = (0..=255).cycle().take(3 * COPY_PART + 100).collect();
        let stream = [message(b'd', b"short"), message(b'd', &body), message(b'c', b""), message(b'd', &body)].concat();
        for cut in [1000, COPY_PART - 3, COPY_PART, stream.len() - 1] {
            for first in 0..20 {
                let mut f = FrontendFramer::new(100);
                f.cut_copy_data();
                let (mut data, mut longest) = (Vec::new(), 0);
                for piece in [&stream[..first]].into_iter().chain(stream[first..].chunks(cut)) {
                    f.push(Bytes::copy_from_slice(piece));
                    while let Some(frame) = f.next_frame().unwrap() {
                        assert_eq!(header(&frame.raw), Some((frame.tag, frame.raw.len() as u32 - 1)));
                        data.extend_from_slice(if frame.tag == b'c' { b"DONE" } else { frame.body() });
                        longest = longest.max(f.carry.capacity());
                    }
                }
                assert!(data == [b"short", &body[..], b"DONE", &body].concat());
                assert!(longest < 2 * COPY_PART, "{longest} bytes were gathered");
            }
        }
    }

    #[test]
    fn a_message_over_the_bound_is_refused_before_it_is_collected() {
        let mut f = FrontendFramer::new(100);
        f.push(Bytes::from_static(b"Q\x7f\xff\xff\xff"));
        assert!(matches!(f.next_frame(), Err(FrameError::TooLarge { tag: b'Q', .. })));
        let mut f = FrontendFramer::new(100);
        f.cut_copy_data();
        f.push(Bytes::from_static(b"d\x3f\xff\xff\xff"));
        assert!(matches!(f.next_frame(), Err(FrameError::TooLarge { tag: b'd', .. })));
        for tag in b"CDEHSXcf" {
            let mut f = FrontendFramer::new(1 << 20);
            f.push(Bytes::from(vec![*tag, 0, 0, 0x27, 0x11]));
            assert!(matches!(f.next_frame(), Err(FrameError::TooLarge { .. })), "{}", char::from(*tag));
        }
    }
}
