#[derive(Debug)]
pub struct Catalogue { pub version: u64, pub has_deferrable_constraints: bool }
