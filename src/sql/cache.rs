use super::class::Class; use std::sync::Arc; use bytes::Bytes;
#[derive(Debug)]
pub struct Verdict { pub class: Class, pub read: bool }
impl Verdict {
 pub fn stays_on_one_node(&self) -> bool { self.read }
 pub fn fits_read_only(&self) -> bool { self.read }
 pub fn uses_time(&self) -> bool { false }
 pub fn parameterised(&self, _t: &str) -> Option<(Bytes, Arc<[u32]>, Bytes)> { None }
}
pub struct VerdictCache;
impl VerdictCache {
 pub fn judge(&mut self, _t: &str, _s: bool, _d: &str, _c: Option<&super::proof::Catalogue>) -> Arc<Verdict> { todo!() }
 pub fn refute(&mut self, _t: &str, _s: bool, _d: &str) {}
}
