//! What catalogue objects do, through all that they use: views through functions, functions through types, types
//! through casts.
//!
//! These uses go in circles (a type's input function returns that type), so effects are joined until nothing changes
//! any more, rather than followed by recursion.

use std::collections::HashMap;

use super::Effect;
use crate::sql::reason::{Cause, Kind};
use crate::wire::FIRST_OWN_OID;

/// An object, by its catalogue and OID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Key {
    Function(u32),
    Operator(u32),
    Relation(u32),
    Type(u32),
}

impl Key {
    fn kind(self) -> Kind {
        match self {
            Key::Function(_) => Kind::Function,
            Key::Operator(_) => Kind::Operator,
            Key::Relation(_) => Kind::Relation,
            Key::Type(_) => Kind::Type,
        }
    }
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
    name: String,
    effect: Effect,
    /// Why it is no read.
    cause: Cause,
    needs: Vec<Need>,
}

/// All objects that are anything but harmless built-ins.
#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: HashMap<Key, Object>,
}

impl Graph {
    /// Adds an object: what it does by itself and, if that is no read, why.
    pub(super) fn add(&mut self, key: Key, name: &str, (effect, cause): (Effect, Cause), needs: Vec<Need>) {
        self.objects.insert(key, Object { name: name.to_owned(), effect, cause, needs });
    }

    /// Adds to what an object uses, if it is known; a built-in type becomes known by it.
    pub(super) fn need(&mut self, user: Key, need: Need) {
        if let Key::Type(oid) = user {
            if oid < FIRST_OWN_OID {
                let (effect, cause, name) = (self.effect(user), Cause::Unknown, String::new());
                self.objects.entry(user).or_insert(Object { name, effect, cause, needs: Vec::new() });
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

    /// Why an object is no read; final once [`Self::settle`] has run.
    pub(super) fn cause(&self, key: Key) -> Cause {
        match key {
            _ if self.objects.contains_key(&key) => self.objects[&key].cause.clone(),
            Key::Relation(oid) if oid < FIRST_OWN_OID => Cause::System,
            _ => Cause::Unknown,
        }
    }

    /// The cause of whoever uses that object: it, or what it uses itself in the end.
    fn cause_of_user(&self, key: Key) -> Cause {
        match (self.objects.get(&key).map_or("", |o| &*o.name), self.cause(key)) {
            (_, Cause::Uses(last)) => Cause::Uses(last),
            ("", Cause::System) => Cause::Uses("system catalogues, system columns or row locks".into()),
            ("", _) => Cause::Uses(format!("a {} that is not known", key.kind()).into()),
            (name, cause) => Cause::Uses(format!("{}, which {cause}", key.kind().named(name)).into()),
        }
    }

    /// Joins effects along all uses until nothing changes. It ends because effects only grow.
    pub(super) fn settle(&mut self) {
        loop {
            let worse: Vec<(Key, Effect, Cause)> = self
                .objects
                .iter()
                .filter_map(|(key, object)| {
                    let worst = object.needs.iter().max_by_key(|n| self.through(**n))?;
                    let effect = self.through(*worst);
                    (effect > object.effect).then(|| (*key, effect, self.cause_of_user(worst.key)))
                })
                .collect();
            if worse.is_empty() {
                return;
            }
            for (key, effect, cause) in worse {
                if let Some(object) = self.objects.get_mut(&key) {
                    (object.effect, object.cause) = (effect, cause);
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
