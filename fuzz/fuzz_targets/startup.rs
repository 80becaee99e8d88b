//! Start-up packets of whatever kind, and the configuration's and pool_passwd's parsers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pglockstep::auth::PoolPasswd;
use pglockstep::wire::front::StartupPacket;

fuzz_target!(|input: &[u8]| {
    let _ = StartupPacket::read(input);
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = PoolPasswd::parse(text);
    }
});
