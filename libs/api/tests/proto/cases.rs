//! The check is checked: deliberately broken protos are convicted, additions are not.

use std::fs;
use std::path::Path;

use crate::breaking::changes;
use crate::compile;

const BEFORE: &str = r#"
syntax = "proto3";
package team.v1;
service Shop {
  rpc Buy(Order) returns (stream Receipt);
  rpc Watch(Order) returns (stream Receipt);
}
message Order {
  reserved 9;
  string name = 1;
  repeated Item items = 2;
  oneof pay { string card = 3; bytes cash = 4; }
  optional uint32 count = 5;
  Kind kind = 6;
  map<string, Item> extras = 7;
  message Item { string uri = 1; }
}
message Receipt { bytes raw = 1; }
enum Kind { KIND_UNSPECIFIED = 0; KIND_GIFT = 1; KIND_LOAN = 2; }
"#;

/// What is written differently, and what must be said about it.
const BROKEN: &[(&str, &str, &str)] = &[
    ("bytes raw = 1;", "", "name of field 1 of team.v1.Receipt (raw (JSON raw)) is gone"),
    ("bytes raw = 1;", "reserved 1;", "name of field 1 of team.v1.Receipt (raw (JSON raw)) is gone"),
    ("bytes raw = 1;", "bytes raw = 2;", "name of field 1 of team.v1.Receipt (raw (JSON raw)) is gone"),
    (
        "bytes raw = 1;",
        "bytes text = 1;",
        "name of field 1 of team.v1.Receipt was raw (JSON raw), is text (JSON text)",
    ),
    ("bytes raw = 1;", "string raw = 1;", "type of field 1 of team.v1.Receipt was bytes, is string"),
    (
        "bytes raw = 1;",
        "repeated bytes raw = 1;",
        "type of field 1 of team.v1.Receipt was bytes, is repeated bytes",
    ),
    (
        "bytes raw = 1;",
        "optional bytes raw = 1;",
        "presence of field 1 of team.v1.Receipt was plain, is optional",
    ),
    (
        "string card = 3;",
        "string card = 3; string name2 = 8; } oneof other { string late = 10;",
        "presence of field 4",
    ),
    (
        "Kind kind = 6;",
        "Receipt kind = 6;",
        "type of field 6 of team.v1.Order was team.v1.Kind, is team.v1.Receipt",
    ),
    (
        "map<string, Item>",
        "map<string, Receipt>",
        "type of field 2 of team.v1.Order.ExtrasEntry was team.v1.Order.Item",
    ),
    ("message Item { string uri = 1; }", "message Item { }", "name of field 1 of team.v1.Order.Item"),
    ("reserved 9;", "", "reservation 9..10 of team.v1.Order (there) is gone"),
    ("KIND_LOAN = 2;", "", "name of value 2 of team.v1.Kind (KIND_LOAN) is gone"),
    ("KIND_LOAN = 2;", "KIND_LOAN = 3;", "name of value 2 of team.v1.Kind (KIND_LOAN) is gone"),
    ("KIND_LOAN = 2;", "KIND_HIRE = 2;", "name of value 2 of team.v1.Kind was KIND_LOAN, is KIND_HIRE"),
    ("rpc Watch(Order) returns (stream Receipt);", "", "method team.v1.Shop.Watch"),
    (
        "rpc Watch",
        "rpc Observe",
        "method team.v1.Shop.Watch (team.v1.Order -> stream team.v1.Receipt) is gone",
    ),
    (
        "Buy(Order)",
        "Buy(stream Order)",
        "method team.v1.Shop.Buy was team.v1.Order -> stream team.v1.Receipt, is stream",
    ),
    ("Buy(Order)", "Buy(Receipt)", "method team.v1.Shop.Buy was team.v1.Order -> "),
    ("returns (stream Receipt)", "returns (Receipt)", "is team.v1.Order -> team.v1.Receipt"),
    ("service Shop", "service Store", "service team.v1.Shop (there) is gone"),
    ("package team.v1;", "package team.v2;", "message team.v1.Order (there) is gone"),
];

const ADDED: &[(&str, &str)] = &[
    ("string name = 1;", "// Now explained.\n  string name = 1; string note = 11;"),
    ("bytes cash = 4;", "bytes cash = 4; string voucher = 12;"),
    ("KIND_LOAN = 2;", "KIND_LOAN = 2; KIND_HIRE = 3;"),
    ("rpc Watch", "rpc Return(Receipt) returns (Order); rpc Watch"),
    ("message Receipt", "message Refund {} message Receipt"),
    ("reserved 9;", "reserved 9, 20;"),
];

fn descriptors(case: &str, text: &str) -> prost_types::FileDescriptorSet {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("proto-{case}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("shop.proto"), text).unwrap();
    compile(&folder)
}

fn compared(case: &str, old: &str, new: &str) -> Vec<String> {
    assert!(BEFORE.contains(old), "{old:?} is not in the example");
    let before = descriptors(&format!("{case}-before"), BEFORE);
    changes(&before, &descriptors(&format!("{case}-now"), &BEFORE.replace(old, new)))
}

#[test]
fn broken_protos_are_convicted() {
    for (case, (old, new, expected)) in BROKEN.iter().enumerate() {
        let found = compared(&format!("broken-{case}"), old, new);
        assert!(found.iter().any(|line| line.contains(expected)), "{old} => {new}: {found:?}");
    }
}

#[test]
fn additions_are_not() {
    for (case, (old, new)) in ADDED.iter().enumerate() {
        assert_eq!(compared(&format!("added-{case}"), old, new), Vec::<String>::new(), "{old} => {new}");
    }
}

#[test]
fn nothing_is_said_about_no_change() {
    assert_eq!(compared("same", "service Shop", "service Shop"), Vec::<String>::new());
}
