//! Writes one sample of every message, every field set to something, and a function that reads it as the generated type and
//! writes it again: for the test that keeps golden bytes. Fields of a `oneof` get a sample each.

use std::{collections::BTreeMap, fmt::Write as _};

use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// Messages within messages; none of ours is as deep.
const DEPTH_MAX: usize = 8;

type Messages<'a> = BTreeMap<String, &'a DescriptorProto>;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: &FieldDescriptorProto, wire: u64) {
    varint(out, (field.number() as u64) << 3 | wire);
}

fn bytes(out: &mut Vec<u8>, field: &FieldDescriptorProto, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn number(field: &FieldDescriptorProto) -> u64 {
    match field.r#type() {
        Type::Bool | Type::Enum => 1,
        _ => field.number() as u64,
    }
}

fn put(out: &mut Vec<u8>, field: &FieldDescriptorProto, messages: &Messages, depth: usize) {
    let repeated = field.label() == Label::Repeated;
    match field.r#type() {
        Type::Message => {
            let inner = messages[field.type_name()];
            let inner = if depth < DEPTH_MAX {
                message(inner, None, messages, depth + 1)
            } else {
                Vec::new()
            };
            bytes(out, field, &inner);
        }
        Type::String | Type::Bytes => {
            bytes(out, field, format!("f{}", field.number()).as_bytes());
            if repeated {
                bytes(out, field, b"more");
            }
        }
        Type::Double => {
            key(out, field, 1);
            out.extend_from_slice(&(f64::from(field.number()) + 0.5).to_le_bytes());
        }
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum if repeated => {
            let mut packed = Vec::new();
            varint(&mut packed, number(field));
            varint(&mut packed, 300);
            bytes(out, field, &packed);
        }
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum => {
            key(out, field, 0);
            varint(out, number(field));
        }
        other => panic!("{}: teach build/samples.rs the type {other:?}", field.name()),
    }
}

/// The index of the `oneof` that a field belongs to; `optional` is none.
fn choice(field: &FieldDescriptorProto) -> Option<i32> {
    field.oneof_index.filter(|_| !field.proto3_optional())
}

/// All fields in the order in which they are written: a `oneof` stands where its least number is.
fn message(of: &DescriptorProto, picked: Option<&str>, messages: &Messages, depth: usize) -> Vec<u8> {
    let mut places: BTreeMap<i32, &FieldDescriptorProto> = BTreeMap::new();
    for field in &of.field {
        let Some(index) = choice(field) else {
            places.insert(field.number(), field);
            continue;
        };
        let members: Vec<_> = of.field.iter().filter(|other| choice(other) == Some(index)).collect();
        let place = members.iter().map(|member| member.number()).min().unwrap_or_default();
        let taken = members
            .iter()
            .find(|member| picked == Some(member.name()))
            .or(members.first());
        if let Some(taken) = taken {
            places.insert(place, taken);
        }
    }
    let mut out = Vec::new();
    places.values().for_each(|field| put(&mut out, field, messages, depth));
    out
}

/// The source of `samples.rs`.
pub(crate) fn write(files: &FileDescriptorSet) -> String {
    let mut messages = Messages::new();
    let mut top = Vec::new();
    for file in &files.file {
        for one in &file.message_type {
            let name = format!("{}.{}", file.package(), one.name());
            for nested in &one.nested_type {
                messages.insert(format!(".{name}.{}", nested.name()), nested);
            }
            messages.insert(format!(".{name}"), one);
            top.push((name, file.package().to_owned(), one));
        }
    }
    let (mut samples, mut arms) = (String::new(), String::new());
    for (name, package, one) in &top {
        let module = package.trim_start_matches("isthmus.").replace('.', "::");
        writeln!(
            arms,
            "        {name:?} => Some(again_as::<crate::{module}::{}>(bytes)),",
            one.name()
        )
        .unwrap();
        let sample = message(one, None, &messages, 0);
        writeln!(samples, "    ({name:?}, &{sample:?}),").unwrap();
        for member in one.field.iter().filter(|field| choice(field).is_some()) {
            let sample = message(one, Some(member.name()), &messages, 0);
            writeln!(samples, "    (\"{name}#{}\", &{sample:?}),", member.name()).unwrap();
        }
    }
    format!(
        "/// A sample of every message.\npub const SAMPLES: &[(&str, &[u8])] = &[\n{samples}];\n\n\
         /// Reads bytes as a message and writes them again; none when there is no such message.\n\
         pub fn again(message: &str, bytes: &[u8]) -> Option<Result<Vec<u8>, prost::DecodeError>> {{\n    match message {{\n\
         {arms}        _ => None,\n    }}\n}}\n"
    )
}
