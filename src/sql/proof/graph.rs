//! What catalogue objects do, through all that they use: views through functions, functions through types, types
//! through casts.
//!
//! These uses go in circles (a type's input function returns that type), so effects are joined until nothing changes
//! any more, rather than followed by recursion.

use std::collections::HashMap;

use super::Effect;
use crate::wire::FIRST_OWN_OID;

/// An object, by its catalogue and OID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Key {
    Function(u32),
    Operator(u32),
    Relation(u32),
    Type(u32),
}

/// One object's use of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    key: Key,
    /// Only a doubt about it counts: a function that takes an enum may be a read, one that takes a type whose checks
    /// write may not.
    doubt_only: bool,
}

impl Need {
    /// Whatever it does, the user does.
    pub(super) fn all(key: Key) -> Need {
        Need { key, doubt_only: false }
    }

    /// The use of something that each node has its own of, as it has its own system catalogues.
    pub(super) fn main_only() -> Need {
        Need::all(Key::Relation(0))
    }

    /// If it is unknown what it does, it is unknown what the user does.
    pub(super) fn doubt(key: Key) -> Need {
        Need { key, doubt_only: true }
    }
}

/// What an object does by itself, and what it uses.
#[derive(Debug)]
pub(super) struct Object {
    effect: Effect,
    needs: Vec<Need>,
}

/// All objects that are anything but harmless built-ins.
#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: HashMap<Key, Object>,
}

impl Graph {
    /// Adds an object.
    pub(super) fn add(&mut self, key: Key, effect: Effect, needs: Vec<Need>) {
        self.objects.insert(key, Object { effect, needs });
    }

    /// Adds to what an object uses, if it is known; a built-in type becomes known by it.
    pub(super) fn need(&mut self, user: Key, need: Need) {
        if let Key::Type(oid) = user {
            if oid < FIRST_OWN_OID {
                let effect = self.effect(user);
                self.objects.entry(user).or_insert(Object { effect, needs: Vec::new() });
            }
        }
        if let Some(object) = self.objects.get_mut(&user) {
            object.needs.push(need);
        }
    }

    /// What an object does; final once [`Self::settle`] has run.
    pub(super) fn effect(&self, key: Key) -> Effect {
        if let Some(object) = self.objects.get(&key) {
            return object.effect;
        }
        match key {
            Key::Relation(oid) if oid < FIRST_OWN_OID => Effect::MainOnly,
            Key::Function(oid) | Key::Operator(oid) | Key::Type(oid) if oid < FIRST_OWN_OID => Effect::Read,
            // Made while the catalogue was being read, or temporary.
            _ => Effect::Unknown,
        }
    }

    /// Joins effects along all uses until nothing changes. It ends because effects only grow.
    pub(super) fn settle(&mut self) {
        loop {
            let worse: Vec<(Key, Effect)> = self
                .objects
                .iter()
                .map(|(key, object)| (*key, object.effect, object.needs.iter().map(|n| self.through(*n)).max()))
                .filter_map(|(key, now, needed)| needed.filter(|e| *e > now).map(|e| (key, e)))
                .collect();
            if worse.is_empty() {
                return;
            }
            for (key, effect) in worse {
                if let Some(object) = self.objects.get_mut(&key) {
                    object.effect = effect;
                }
            }
        }
    }

    fn through(&self, need: Need) -> Effect {
        match self.effect(need.key) {
            Effect::MainOnly if need.doubt_only => Effect::Read,
            effect => effect,
        }
    }

    /// Something that a cast, an operator class or a check may call on a built-in type is doubtful: it can stand behind
    /// any expression.
    pub(super) fn has_doubtful_builtin_type(&self) -> bool {
        self.objects
            .iter()
            .any(|(key, o)| matches!(key, Key::Type(oid) if *oid < FIRST_OWN_OID) && o.effect == Effect::Unknown)
    }
}
