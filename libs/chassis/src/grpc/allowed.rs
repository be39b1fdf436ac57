//! Which role may call which method: the whole of it. What is not listed is nobody's.
//!
//! The role is that of the certificate a connection was opened with; nothing that a request carries says anything about
//! it. Without TLS there is no role and no check, which is why gRPC without TLS stays on one machine.

use crate::tls::Role;

const EVERYBODY: &[Role] = &Role::ALL;

/// A service, its methods, and the roles that may call them.
type Row = (&'static str, &'static [&'static str], &'static [Role]);

/// The table.
pub const TABLE: &[Row] = &[
    // A conversation belongs to its client, whom only the gateway knows. Session nodes pass on what a gateway that cannot
    // reach the owner has given them, and ask for it whether the owner is there; any of them may own any session next, so this
    // tells them nothing new.
    (
        "trunkline.session.v1.Session",
        &["Deliver", "Attach", "Close", "Probe"],
        &[Role::Gateway, Role::Session],
    ),
    ("trunkline.session.v1.Session", &["Link", "Relay", "ProbeOther"], &[Role::Gateway]),
    // Registries are asked by sessions. A registry asks nobody, so one that is taken over leads nowhere.
    ("trunkline.registry.v1.Catalog", &["Describe", "Watch", "Complete"], &[Role::Session]),
    ("trunkline.registry.v1.ToolRegistry", &["List", "Call"], &[Role::Session]),
    (
        "trunkline.registry.v1.ResourceRegistry",
        &["List", "ListTemplates", "Read", "Subscribe"],
        &[Role::Session],
    ),
    ("trunkline.registry.v1.PromptRegistry", &["List", "Get"], &[Role::Session]),
    ("trunkline.registry.v1.Links", &["Link"], &[Role::Session]),
    ("trunkline.registry.v1.Invocations", &["Attach", "Resume", "Cancel", "Release"], &[Role::Session]),
    // Says that a process is there, and nothing about anybody's calls.
    ("grpc.health.v1.Health", &["Check", "List", "Watch"], EVERYBODY),
];

/// Whether `role` may call what stands at `path` (`/package.Service/Method`).
#[must_use]
pub fn allows(role: Role, path: &str) -> bool {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return false;
    };
    let row = TABLE.iter().find(|(name, methods, _)| *name == service && methods.contains(&method));
    row.is_some_and(|(_, _, roles)| roles.contains(&role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_reaches_what_is_its_own() {
        let calls = [
            ("/trunkline.session.v1.Session/Deliver", [true, true, false, false, false]),
            ("/trunkline.session.v1.Session/Probe", [true, true, false, false, false]),
            ("/trunkline.session.v1.Session/ProbeOther", [true, false, false, false, false]),
            ("/trunkline.session.v1.Session/Relay", [true, false, false, false, false]),
            ("/trunkline.session.v1.Session/Link", [true, false, false, false, false]),
            ("/trunkline.registry.v1.Catalog/Watch", [false, true, false, false, false]),
            ("/trunkline.registry.v1.ToolRegistry/Call", [false, true, false, false, false]),
            ("/trunkline.registry.v1.ResourceRegistry/Subscribe", [false, true, false, false, false]),
            ("/trunkline.registry.v1.PromptRegistry/Get", [false, true, false, false, false]),
            ("/trunkline.registry.v1.Links/Link", [false, true, false, false, false]),
            ("/trunkline.registry.v1.Invocations/Attach", [false, true, false, false, false]),
            ("/grpc.health.v1.Health/Check", [true; 5]),
            ("/trunkline.session.v1.Session/Unknown", [false; 5]),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", [false; 5]),
        ];
        for (path, expected) in calls {
            assert_eq!(Role::ALL.map(|role| allows(role, path)), expected, "{path}");
        }
    }

    #[test]
    fn only_the_exact_path_is_the_method() {
        for path in [
            "",
            "/",
            "trunkline.session.v1.Session/Deliver",
            "//trunkline.session.v1.Session/Deliver",
            "/trunkline.session.v1.Session/Deliver/",
            "/trunkline.session.v1.Session//Deliver",
            "/trunkline.session.v1.Session/deliver",
            "/trunkline.session.v1.Session/%44eliver",
            "/x/../trunkline.session.v1.Session/Deliver",
            "/trunkline.session.v1.Session",
        ] {
            assert!(!allows(Role::Gateway, path), "{path}");
        }
    }
}
