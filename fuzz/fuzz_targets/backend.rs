//! A server's stream, cut anywhere: the pieces put together are the stream, and errors are read without a panic.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pglockstep::wire::error::ErrorFields;
use pglockstep::wire::frame::BackendFramer;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, stream) = input;
    let mut framer = BackendFramer::new(1 << 16);
    let mut out = Vec::new();
    'all: for piece in stream.chunks(usize::from(cut).max(1)) {
        framer.push(Bytes::copy_from_slice(piece));
        loop {
            match framer.next_piece() {
                Ok(Some(piece)) => {
                    let bytes = framer.bytes(&piece);
                    out.extend_from_slice(bytes);
                    if piece.first && piece.tag == b'E' {
                        let _ = ErrorFields::parse(bytes.get(5..).unwrap_or_default());
                    }
                }
                Ok(None) => break,
                Err(_) => break 'all,
            }
        }
    }
    assert!(stream.starts_with(&out));
});
