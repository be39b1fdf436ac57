//! What breaks a peer that was built against an earlier descriptor set.
//!
//! A descriptor set is flattened into statements, such as "field 2 of message M is called `uri`". Every earlier statement
//! must still be made; new ones are free.

use std::collections::BTreeMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

/// What is talked about -> what is said of it.
type Statements = BTreeMap<String, String>;

/// Names every statement of `before` that `now` does not make.
pub(crate) fn changes(before: &FileDescriptorSet, now: &FileDescriptorSet) -> Vec<String> {
    let (before, now) = (statements(before), statements(now));
    before
        .iter()
        .filter_map(|(subject, said)| match now.get(subject) {
            None => Some(format!("{subject} ({said}) is gone")),
            Some(other) if other != said => Some(format!("{subject} was {said}, is {other}")),
            Some(_) => None,
        })
        .collect()
}

fn statements(set: &FileDescriptorSet) -> Statements {
    let mut all = Statements::new();
    for file in &set.file {
        let package = file.package();
        all.insert(format!("syntax of {}", file.name()), file.syntax().to_owned());
        for message in &file.message_type {
            of_message(&mut all, package, message);
        }
        for choice in &file.enum_type {
            of_enum(&mut all, package, choice);
        }
        for service in &file.service {
            of_service(&mut all, package, service);
        }
    }
    all
}

fn of_message(all: &mut Statements, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    all.insert(format!("message {name}"), "there".to_owned());
    for field in &message.field {
        let subject = format!("field {} of {name}", field.number());
        all.insert(format!("name of {subject}"), format!("{} (JSON {})", field.name(), field.json_name()));
        all.insert(format!("type of {subject}"), type_of(field));
        all.insert(format!("presence of {subject}"), presence_of(field, message));
    }
    for range in &message.reserved_range {
        all.insert(format!("reservation {}..{} of {name}", range.start(), range.end()), "there".to_owned());
    }
    for reserved in &message.reserved_name {
        all.insert(format!("reservation {reserved} of {name}"), "there".to_owned());
    }
    for nested in &message.nested_type {
        of_message(all, &name, nested);
    }
    for nested in &message.enum_type {
        of_enum(all, &name, nested);
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().trim_start_matches('.').to_owned(),
        scalar @ (Type::Double
        | Type::Float
        | Type::Int64
        | Type::Uint64
        | Type::Int32
        | Type::Fixed64
        | Type::Fixed32
        | Type::Bool
        | Type::String
        | Type::Bytes
        | Type::Uint32
        | Type::Sfixed32
        | Type::Sfixed64
        | Type::Sint32
        | Type::Sint64) => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    if field.label() == Label::Repeated { format!("repeated {kind}") } else { kind }
}

fn presence_of(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    if field.proto3_optional() {
        return "optional".to_owned();
    }
    let oneof = field.oneof_index.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
    oneof.map_or_else(|| "plain".to_owned(), |oneof| format!("in oneof {}", oneof.name()))
}

fn of_enum(all: &mut Statements, scope: &str, choice: &EnumDescriptorProto) {
    let name = format!("{scope}.{}", choice.name());
    all.insert(format!("enum {name}"), "there".to_owned());
    for value in &choice.value {
        all.insert(format!("name of value {} of {name}", value.number()), value.name().to_owned());
    }
}

fn of_service(all: &mut Statements, scope: &str, service: &ServiceDescriptorProto) {
    let name = format!("{scope}.{}", service.name());
    all.insert(format!("service {name}"), "there".to_owned());
    for method in &service.method {
        let side = |streaming: bool, message: &str| {
            format!("{}{}", if streaming { "stream " } else { "" }, message.trim_start_matches('.'))
        };
        let takes = side(method.client_streaming(), method.input_type());
        let gives = side(method.server_streaming(), method.output_type());
        all.insert(format!("method {name}.{}", method.name()), format!("{takes} -> {gives}"));
    }
}
