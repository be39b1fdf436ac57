//! Names that occur twice in a request: readers may differ on which of their values counts.

use std::ops::ControlFlow;

use crate::json::Part;

/// Whether a name that decides something occurs twice in `params` or in its `_meta`.
pub(super) fn decides(params: Part<'_>) -> bool {
    if params.has_no_twins() {
        return params.get("_meta").is_some_and(has_twins);
    }
    let mut seen = [false; 8];
    let mut meta = None;
    let end = params.members().try_for_each(|(key, value)| {
        let place = match key.as_ref() {
            "name" => 0,
            "uri" => 1,
            "arguments" => 2,
            "_meta" => 3,
            "requestState" => 4,
            "inputResponses" => 5,
            "cursor" => 6,
            "notifications" => 7,
            _ => return ControlFlow::Continue(()),
        };
        if place == 3 {
            meta = Some(value);
        }
        if std::mem::replace(&mut seen[place], true) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    end.is_break() || meta.is_some_and(has_twins)
}

/// Whether any name occurs twice in an object.
fn has_twins(object: Part<'_>) -> bool {
    if object.has_no_twins() {
        return false;
    }
    // Sorted, because a client may send as many as a message holds.
    let mut names: Vec<_> = object.members().map(|(key, _)| key).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;
    use crate::scan::Limits;

    /// The same whether where members stand was noted or not.
    fn decided(params: &str) -> bool {
        let noted = Json::parse(params.to_owned().into(), &Limits::MESSAGE).unwrap();
        let read = Json::trusted(params.to_owned());
        assert_eq!(decides(noted.part()), decides(read.part()), "{params}");
        decides(read.part())
    }

    #[test]
    fn each_name_that_decides_may_be_there_once() {
        let names = [
            "name",
            "uri",
            "arguments",
            "_meta",
            "requestState",
            "inputResponses",
            "cursor",
            "notifications",
        ];
        let all: Vec<String> = names.iter().map(|name| format!("\"{name}\":{{}}")).collect();
        assert!(!decided(&format!("{{{}}}", all.join(","))));
        for one in &all {
            assert!(decided(&format!("{{{},{one}}}", all.join(","))), "{one}");
        }
        assert!(decided("{\"name\":1,\"n\\u0061me\":2}"), "however it is written");
        assert!(!decided("{\"other\":1,\"other\":2}"));
    }

    #[test]
    fn names_of_the_meta_may_be_there_once_however_many_they_are() {
        for count in [1, 2, 7, 8, 9, 10, 40] {
            let names: Vec<String> = (0..count).map(|i| format!("\"n{i}\":{i}")).collect();
            assert!(!decided(&format!("{{\"_meta\":{{{}}}}}", names.join(","))), "{count}");
            for again in 0..count {
                for at in [again + 1, count] {
                    let mut names = names.clone();
                    names.insert(at, format!("\"n{again}\":0"));
                    assert!(
                        decided(&format!("{{\"_meta\":{{{}}}}}", names.join(","))),
                        "{again} of {count}, at {at}"
                    );
                }
            }
        }
    }
}
