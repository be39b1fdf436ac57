//! Advertised names of tools and prompts: a pure function of the namespace and the registry's own name.

use sha2::{Digest, Sha256};

/// Between a namespace and a registry's own name.
pub const SEPARATOR: &str = "__";
/// Longest advertised name, in characters.
pub const MAX: usize = 64;

/// Whether a namespace is `[A-Za-z0-9-]{1,24}`. The empty namespace is legal too and is asked for separately.
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    (1..=24).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}

/// The name clients see. Longer ones are cut and end in `_` and eight characters of a hash of the full name.
#[must_use]
pub fn advertised(namespace: &str, own: &str) -> String {
    let full = if namespace.is_empty() { own.to_owned() } else { format!("{namespace}{SEPARATOR}{own}") };
    if full.chars().count() <= MAX {
        return full;
    }
    let hash: String = Sha256::digest(full.as_bytes()).iter().take(4).map(|b| format!("{b:02x}")).collect();
    let kept: String = full.chars().take(MAX - 9).collect();
    format!("{kept}_{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_prefixed_and_cut() {
        assert_eq!(advertised("", "echo"), "echo");
        assert_eq!(advertised("team", "echo"), "team__echo");
        let long = "x".repeat(70);
        let cut = advertised("team", &long);
        assert_eq!(cut.len(), MAX);
        assert_ne!(cut, advertised("team", &"x".repeat(71)));
        assert_eq!(advertised("", &"y".repeat(64)).len(), 64);
    }

    #[test]
    fn namespaces_are_checked() {
        for (text, good) in
            [("a", true), ("A-9", true), ("", false), ("a_b", false), ("a__b", false), ("é", false)]
        {
            assert_eq!(is_namespace(text), good, "{text}");
        }
        assert!(!is_namespace(&"a".repeat(25)));
    }
}
