//! A client's stream, cut anywhere: what comes out must not depend on the cuts, and no message's reader panics.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pglockstep::wire::frame::FrontendFramer;
use pglockstep::wire::front::{Bind, Parse, read_execute, read_target};

fn frames(stream: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let mut framer = FrontendFramer::new(1 << 16);
    let mut out = Vec::new();
    for piece in stream.chunks(cut.max(1)) {
        framer.push(Bytes::copy_from_slice(piece));
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => {
                    let _ = (Parse::read(frame.body()), Bind::read(frame.body()));
                    let _ = (read_target(frame.body()), read_execute(frame.body()));
                    out.push(frame.raw.to_vec());
                }
                Ok(None) => break,
                Err(_) => return out,
            }
        }
    }
    out
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, stream) = input;
    assert_eq!(frames(stream, stream.len()), frames(stream, usize::from(cut)));
});
