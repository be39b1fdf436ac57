//! How much work a validation would be, told before it is done.
//!
//! A schema of a few lines can ask for exponential work: `allOf` twice the same reference, nested or recursive. Most
//! schemas cannot, which is found once when they are compiled; for the others the work is counted for each instance, each
//! pair of subschema and place once, and refused beyond a bound.

use std::collections::BTreeMap;

use serde_json::Value;

/// Subschemas of a schema written out without references, up to which no instance has to be looked at.
const PLAIN: u64 = 20_000;
/// Evaluations of a subschema at a place that one validation may need.
const MOST: u64 = 500_000;
/// Pairs that are counted before the counting itself is given up.
const MOST_PAIRS: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(super) enum Cost {
    /// Bounded by the size of the instance.
    Plain,
    /// Has to be counted.
    Counted(Value),
}

impl Cost {
    pub(super) fn of(schema: Value) -> Self {
        let size = Unrolled { root: &schema, open: Vec::new() }.size(&schema);
        if size.is_some_and(|size| size <= PLAIN) { Self::Plain } else { Self::Counted(schema) }
    }

    pub(super) fn is_bearable(&self, instance: &Value) -> bool {
        match self {
            Self::Plain => true,
            Self::Counted(root) => {
                let mut count = Count { root, known: BTreeMap::new() };
                count.of(root, instance).is_some_and(|work| work <= MOST)
            }
        }
    }
}

/// What a `$ref` or `$dynamicRef` inside a schema leads to, in this document; one by `$id` or anchor is found by name.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    match reference.strip_prefix('#') {
        Some(pointer) if pointer.is_empty() || pointer.starts_with('/') => root.pointer(pointer),
        Some(anchor) => named(root, &["$anchor", "$dynamicAnchor"], anchor),
        None => named(root, &["$id"], reference),
    }
}

fn named<'a>(value: &'a Value, keys: &[&str], name: &str) -> Option<&'a Value> {
    let is_it = keys.iter().any(|key| value.get(key).and_then(Value::as_str) == Some(name));
    if is_it {
        return Some(value);
    }
    children(value).find_map(|child| named(child, keys, name))
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Object(members) => Box::new(members.values()),
        Value::Array(items) => Box::new(items.iter()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Box::new(std::iter::empty()),
    }
}

fn references(schema: &Value) -> impl Iterator<Item = &str> {
    ["$ref", "$dynamicRef", "$recursiveRef"].into_iter().filter_map(|key| schema.get(key)?.as_str())
}

/// Counts the nodes of a schema with its references written out.
struct Unrolled<'a> {
    root: &'a Value,
    open: Vec<*const Value>,
}

impl<'a> Unrolled<'a> {
    /// `None` for a schema that refers to itself, or that is too large.
    fn size(&mut self, schema: &'a Value) -> Option<u64> {
        let here = std::ptr::from_ref(schema);
        if self.open.contains(&here) || self.open.len() > 512 {
            return None;
        }
        self.open.push(here);
        let mut sum = 1_u64;
        let led_to: Vec<&Value> = references(schema).map(|r| target(self.root, r)).collect::<Option<_>>()?;
        for next in children(schema).chain(led_to) {
            if next.is_object() || next.is_array() {
                sum = sum.saturating_add(self.size(next)?);
            }
            if sum > PLAIN {
                return None;
            }
        }
        self.open.pop();
        Some(sum)
    }
}

/// Counts evaluations of subschemas at places of an instance.
struct Count<'a> {
    root: &'a Value,
    known: BTreeMap<(*const Value, *const Value), u64>,
}

impl<'a> Count<'a> {
    /// `None` when the counting itself is too much.
    fn of(&mut self, schema: &'a Value, place: &'a Value) -> Option<u64> {
        let key = (std::ptr::from_ref(schema), std::ptr::from_ref(place));
        if let Some(known) = self.known.get(&key) {
            return Some(*known);
        }
        if self.known.len() >= MOST_PAIRS {
            return None;
        }
        // A schema that leads back to itself at the same place adds nothing there.
        self.known.insert(key, 0);
        let mut sum = 1_u64;
        for reference in references(schema) {
            // What cannot be followed here is taken for the dearest thing there is.
            let next = target(self.root, reference).unwrap_or(self.root);
            sum = sum.saturating_add(self.of(next, place)?);
        }
        let Value::Object(members) = schema else { return Some(sum) };
        for (keyword, value) in members {
            sum = sum.saturating_add(self.keyword(keyword, value, place)?);
        }
        self.known.insert(key, sum);
        Some(sum)
    }

    fn keyword(&mut self, keyword: &str, value: &'a Value, place: &'a Value) -> Option<u64> {
        match keyword {
            "allOf" | "anyOf" | "oneOf" => self.each(value, std::iter::once(place)),
            "not" | "if" | "then" | "else" => self.of(value, place),
            "dependentSchemas" | "dependencies" => self.each(value, std::iter::once(place)),
            "properties" => {
                let (Value::Object(named), Value::Object(members)) = (value, place) else { return Some(0) };
                let pairs = named.iter().filter_map(|(name, schema)| Some((schema, members.get(name)?)));
                self.pairs(pairs.collect())
            }
            "patternProperties" => self.each(value, children(place)),
            "prefixItems" => {
                let (Value::Array(schemas), Value::Array(items)) = (value, place) else { return Some(0) };
                self.pairs(schemas.iter().zip(items).collect())
            }
            "items" if value.is_array() => self.each(value, children(place)),
            "items" | "additionalItems" | "contains" | "unevaluatedItems" if place.is_array() => {
                self.pairs(children(place).map(|item| (value, item)).collect())
            }
            "additionalProperties" | "unevaluatedProperties" if place.is_object() => {
                self.pairs(children(place).map(|item| (value, item)).collect())
            }
            _ => Some(0),
        }
    }

    /// Each schema in `schemas` at each place.
    fn each(&mut self, schemas: &'a Value, places: impl Iterator<Item = &'a Value>) -> Option<u64> {
        let pairs = places.flat_map(|place| children(schemas).map(move |schema| (schema, place)));
        self.pairs(pairs.collect())
    }

    fn pairs(&mut self, pairs: Vec<(&'a Value, &'a Value)>) -> Option<u64> {
        if pairs.len() > MOST_PAIRS {
            return None;
        }
        pairs
            .into_iter()
            .try_fold(0_u64, |sum, (schema, place)| Some(sum.saturating_add(self.of(schema, place)?)))
    }
}
