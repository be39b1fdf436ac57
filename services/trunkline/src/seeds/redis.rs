//! Where Redis is, by the names of the founding documents.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// What they say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// The variable that names the address.
    pub(super) named: &'static str,
    /// Without the password.
    pub(super) address: String,
    /// The password, and the variable it is in.
    pub(super) password: Option<(&'static str, String)>,
}

/// Reads the variables; `None` if they name no Redis, or say that memory is to be used.
pub(super) fn read(environment: &BTreeMap<String, String>) -> Option<Given> {
    let get = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    if matches!(get("MCP_SESSION_USE_INMEMORY"), Some("true" | "1")) {
        return None;
    }
    let password = || get("REDIS_PASSWORD").map(|password| ("REDIS_PASSWORD", password.to_owned()));
    if let Some(url) = get("REDIS_URL") {
        let (address, inside) = without_password(url);
        let inside = inside.map(|password| ("REDIS_URL", password));
        return Some(Given { named: "REDIS_URL", address, password: inside.or_else(password) });
    }
    if let Some(address) = get("REDIS_ADDRESS") {
        let address = format!("redis://{address}");
        return Some(Given { named: "REDIS_ADDRESS", address, password: password() });
    }
    let host = get("MCP_REDIS_HOST")?;
    let address = format!("redis://{host}:{}", get("MCP_REDIS_PORT").unwrap_or("6379"));
    Some(Given { named: "MCP_REDIS_HOST", address, password: password() })
}

/// `scheme://user:password@host/..` without the password, and the password.
fn without_password(url: &str) -> (String, Option<String>) {
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user, host) = rest.rsplit_once('@')?;
        let (user, password) = user.split_once(':')?;
        let at = if user.is_empty() { "" } else { "@" };
        Some((
            format!("{scheme}://{user}{at}{host}"),
            percent_decode_str(password).decode_utf8_lossy().into_owned(),
        ))
    };
    parts().map_or((url.to_owned(), None), |(address, password)| (address, Some(password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Option<(String, Option<String>)> {
        let environment =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        read(&environment).map(|given| (given.address, given.password.map(|(_, password)| password)))
    }

    #[test]
    fn each_way_of_saying_where_redis_is() {
        let at =
            |address: &str, password: Option<&str>| Some((address.to_owned(), password.map(str::to_owned)));
        assert_eq!(given(&[("REDIS_URL", "redis://h:1/2")]), at("redis://h:1/2", None));
        assert_eq!(given(&[("REDIS_URL", "rediss://u:p%40%zz@h:1")]), at("rediss://u@h:1", Some("p@%zz")));
        assert_eq!(given(&[("REDIS_URL", "redis://:p@h")]), at("redis://h", Some("p")));
        let both = [("REDIS_URL", "redis://u@h"), ("REDIS_PASSWORD", "q"), ("REDIS_ADDRESS", "x:1")];
        assert_eq!(given(&both), at("redis://u@h", Some("q")));
        assert_eq!(given(&[("REDIS_ADDRESS", "h:1")]), at("redis://h:1", None));
        assert_eq!(given(&[("MCP_REDIS_HOST", "h")]), at("redis://h:6379", None));
        assert_eq!(given(&[("MCP_REDIS_HOST", "h"), ("MCP_REDIS_PORT", "7")]), at("redis://h:7", None));
        assert_eq!(given(&[("MCP_REDIS_PORT", "7"), ("REDIS_PASSWORD", "q")]), None);
        assert_eq!(given(&[("REDIS_URL", "redis://h"), ("MCP_SESSION_USE_INMEMORY", "true")]), None);
    }
}
