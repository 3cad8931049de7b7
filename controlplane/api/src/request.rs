//! [`v1::ContainerRequest`] as JSON: in the form that credential plugins and `clipfs mount --request` take (the field names
//! of the `.proto`, times as RFC 3339, whole numbers without a point; zero, empty and absent are the same and are left out).

use prost_types::value::Kind;
use prost_types::{Struct, Timestamp};
use serde_json::{Map, Number, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::v1;

/// Largest whole number that a double holds exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A field's type.
trait Field {
    /// `None`: absent, or its type's zero.
    fn to_json(&self) -> Option<Value>;
}

macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl Field for $type {
            fn to_json(&self) -> Option<Value> {
                (*self != 0).then(|| Value::from(*self))
            }
        }
    )+};
}
numbers!(i64, u32);

impl Field for f64 {
    fn to_json(&self) -> Option<Value> {
        (*self != 0.0).then(|| number(*self))
    }
}

impl Field for bool {
    fn to_json(&self) -> Option<Value> {
        self.then_some(Value::Bool(true))
    }
}

impl Field for String {
    fn to_json(&self) -> Option<Value> {
        (!self.is_empty()).then(|| Value::String(self.clone()))
    }
}

impl Field for Struct {
    fn to_json(&self) -> Option<Value> {
        let fields = self.fields.iter().map(|(key, value)| (key.clone(), any_to_json(value)));
        Some(Value::Object(fields.collect()))
    }
}

impl Field for Timestamp {
    fn to_json(&self) -> Option<Value> {
        let nanos = i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos);
        // A time that RFC 3339 cannot write is none.
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
        time.format(&Rfc3339).ok().map(Value::String)
    }
}

impl<T: Field> Field for Option<T> {
    fn to_json(&self) -> Option<Value> {
        self.as_ref().and_then(Field::to_json)
    }
}

impl<T: Field> Field for Vec<T> {
    fn to_json(&self) -> Option<Value> {
        let item = |item: &T| item.to_json().unwrap_or_else(|| Value::String(String::new()));
        (!self.is_empty()).then(|| Value::Array(self.iter().map(item).collect()))
    }
}

/// Numbers have their own zero, which is not the empty text.
fn ports_to_json(ports: &[u32]) -> Option<Value> {
    (!ports.is_empty()).then(|| Value::Array(ports.iter().map(|port| Value::from(*port)).collect()))
}

fn number(n: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "whole and small enough: asked just before")]
    if n.fract() == 0.0 && n.abs() <= EXACT {
        return Value::from(n as i64);
    }
    Number::from_f64(n).map_or(Value::Null, Value::Number)
}

fn any_to_json(value: &prost_types::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(yes)) => Value::Bool(*yes),
        Some(Kind::NumberValue(n)) => number(*n),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(any_to_json).collect()),
        Some(Kind::StructValue(fields)) => fields.to_json().unwrap_or(Value::Null),
    }
}

macro_rules! fields {
    ($($name:ident),+ $(,)?) => {
        fn write(request: &v1::ContainerRequest, object: &mut Map<String, Value>) {
            $(if let Some(value) = Field::to_json(&request.$name) {
                object.insert(stringify!($name).to_owned(), value);
            })+
        }
    };
}

// All but `ports`.
fields! {
    container_id, entry_point, env, cpu, memory, gpu, gpu_request, gpu_count, image_id, stub_id, workspace_id, workspace, stub,
    timestamp, mounts, retry_count, pool_selector, preemptable, checkpoint_enabled, build_options, cost_per_ms, app_id,
    checkpoint, config_path, image_credentials, build_registry_credentials, block_network, allow_list, docker_enabled,
    runtime_secret_names, runtime_token_required, allow_marketplace, machine_id, checkpoint_trigger, task_id, hostname,
    provisioning_attempts,
}

/// The request as a JSON object, credentials too if it holds any.
#[must_use]
pub fn to_json(request: &v1::ContainerRequest) -> Map<String, Value> {
    let mut object = Map::new();
    write(request, &mut object);
    if let Some(ports) = ports_to_json(&request.ports) {
        object.insert("ports".to_owned(), ports);
    }
    object
}

#[cfg(test)]
mod tests {
    use prost_types::ListValue;
    use serde_json::json;

    use super::*;

    fn value(kind: Kind) -> prost_types::Value {
        prost_types::Value { kind: Some(kind) }
    }

    #[test]
    fn every_kind_of_field() {
        let list = ListValue { values: vec![value(Kind::NumberValue(1.0)), value(Kind::NumberValue(2.5))] };
        let fields = [
            ("id", value(Kind::NumberValue(7.0))),
            ("none", value(Kind::NullValue(0))),
            ("list", value(Kind::ListValue(list))),
            ("yes", value(Kind::BoolValue(true))),
        ];
        let workspace = Struct { fields: fields.map(|(key, value)| (key.to_owned(), value)).into() };
        let request = v1::ContainerRequest {
            entry_point: vec!["sh".into(), String::new()],
            cpu: 500,
            workspace: Some(workspace),
            timestamp: Some(Timestamp { seconds: 1_767_323_045, nanos: 500_000_000 }),
            mounts: vec![Struct::default()],
            ports: vec![0, 8080],
            cost_per_ms: 0.25,
            preemptable: true,
            ..Default::default()
        };
        let expected = json!({
            "entry_point": ["sh", ""], "cpu": 500,
            "workspace": {"id": 7, "none": null, "list": [1, 2.5], "yes": true},
            "timestamp": "2026-01-02T03:04:05.5Z", "mounts": [{}], "ports": [0, 8080], "cost_per_ms": 0.25, "preemptable": true,
        });
        assert_eq!(Value::Object(to_json(&request)), expected);
    }

    #[test]
    fn zero_and_empty_are_left_out() {
        assert!(to_json(&v1::ContainerRequest::default()).is_empty());
    }
}
