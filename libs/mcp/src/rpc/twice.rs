//! Names that occur twice in a request: readers may differ on which of their values counts.

use crate::json::Part;

/// Names in `params` that decide something.
const DECIDING: [&str; 8] =
    ["name", "uri", "arguments", "_meta", "requestState", "inputResponses", "cursor", "notifications"];

/// Whether a name that decides something occurs twice in `params` or in its `_meta`.
pub(super) fn decides(params: Part<'_>) -> bool {
    if params.has_no_twins() {
        return params.get("_meta").is_some_and(has_twins);
    }
    let mut seen = [false; DECIDING.len()];
    let mut meta = None;
    for (key, value) in params.members() {
        let Some(place) = DECIDING.iter().position(|name| *name == key) else { continue };
        if std::mem::replace(&mut seen[place], true) {
            return true;
        }
        if key == "_meta" {
            meta = Some(value);
        }
    }
    meta.is_some_and(has_twins)
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

    /// Of the params of a message; the same whether where members stand was noted or not.
    fn decided(params: &str) -> bool {
        let text = format!("{{\"method\":\"x\",\"params\":{params}}}");
        let noted = Json::parse(text.clone().into(), &Limits::MESSAGE).unwrap();
        let read = Json::trusted(text);
        let [noted, read] = [&noted, &read].map(|json| decides(json.part().get("params").unwrap()));
        assert_eq!(noted, read, "{params}");
        read
    }

    #[test]
    fn of_a_usual_call_it_is_known_without_reading() {
        let text = r#"{"id":1,"params":{"name":"n","arguments":{"a":1},"_meta":{"a":{},"b":"2"}}}"#;
        let json = Json::parse(text.into(), &Limits::MESSAGE).unwrap();
        let params = json.part().get("params").unwrap();
        assert!(params.has_no_twins() && params.get("_meta").unwrap().has_no_twins());
        assert!(!Json::trusted(text).part().has_no_twins(), "nothing was noted of it");
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
