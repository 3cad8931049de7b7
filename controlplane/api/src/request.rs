//! The ContainerRequest as JSON, with the names of its `.proto`: what is queued, and what workers and plugins read.
//!
//! Fields that are zero are left out, as the readers of credential plugins have it.

use prost_types::value::Kind;
use serde_json::{Map, Number, Value, json};

use crate::v1;

/// Deepest nesting that credential plugins read.
const MAX_DEPTH: usize = 128;

/// Why a request is no request, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotARequest(String);

/// A table of the fields: one line each, read and written the same way.
macro_rules! fields {
    ($on:ident, $act:ident) => {
        $act!($on, container_id, text);
        $act!($on, entry_point, texts);
        $act!($on, env, texts);
        $act!($on, cpu, number);
        $act!($on, memory, number);
        $act!($on, gpu, text);
        $act!($on, gpu_request, texts);
        $act!($on, gpu_count, number);
        $act!($on, image_id, text);
        $act!($on, stub_id, text);
        $act!($on, workspace_id, text);
        $act!($on, workspace, object);
        $act!($on, stub, object);
        $act!($on, timestamp, time);
        $act!($on, mounts, objects);
        $act!($on, retry_count, number);
        $act!($on, pool_selector, text);
        $act!($on, preemptable, flag);
        $act!($on, checkpoint_enabled, flag);
        $act!($on, build_options, object);
        $act!($on, ports, numbers);
        $act!($on, cost_per_ms, real);
        $act!($on, app_id, text);
        $act!($on, checkpoint, object);
        $act!($on, config_path, text);
        $act!($on, image_credentials, text);
        $act!($on, build_registry_credentials, text);
        $act!($on, block_network, flag);
        $act!($on, allow_list, texts);
        $act!($on, docker_enabled, flag);
        $act!($on, runtime_secret_names, texts);
        $act!($on, runtime_token_required, flag);
        $act!($on, allow_marketplace, flag);
        $act!($on, machine_id, text);
        $act!($on, checkpoint_trigger, text);
        $act!($on, task_id, text);
        $act!($on, hostname, text);
        $act!($on, provisioning_attempts, number);
    };
}

/// Writes a request.
///
/// # Errors
/// A number that JSON does not have (NaN), or objects nested too deeply.
pub fn to_json(request: &v1::ContainerRequest) -> Result<String, NotARequest> {
    let mut out = Map::new();
    let pair = (request, &mut out);
    macro_rules! put {
        ($on:ident, $field:ident, $how:ident) => {
            if let Some(value) = write::$how(stringify!($field), &$on.0.$field)? {
                $on.1.insert(stringify!($field).to_owned(), value);
            }
        };
    }
    fields!(pair, put);
    Ok(Value::Object(out).to_string())
}

/// Reads a request that [`to_json`] has written. Unknown fields are dropped: the message has no place for them.
///
/// # Errors
/// Not JSON, or a field of another type: names the field, never the value.
pub fn from_json(text: &str) -> Result<v1::ContainerRequest, NotARequest> {
    let wrong = || NotARequest("the request is not a JSON object".to_owned());
    let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else { return Err(wrong()) };
    let mut request = v1::ContainerRequest::default();
    let pair = (&mut fields, &mut request);
    macro_rules! take {
        ($on:ident, $field:ident, $how:ident) => {
            if let Some(value) = $on.0.remove(stringify!($field)).filter(|value| !value.is_null()) {
                $on.1.$field = read::$how(value).ok_or_else(|| {
                    NotARequest(format!("{}: unexpected type or value", stringify!($field)))
                })?;
            }
        };
    }
    fields!(pair, take);
    Ok(request)
}

/// Values as JSON; `None`: zero.
mod write {
    use super::{Kind, MAX_DEPTH, Map, NotARequest, Number, Value, json};

    type Written = Result<Option<Value>, NotARequest>;

    pub(super) fn text(_: &str, text: &str) -> Written {
        Ok((!text.is_empty()).then(|| text.into()))
    }

    pub(super) fn texts(_: &str, texts: &[String]) -> Written {
        Ok((!texts.is_empty()).then(|| texts.into()))
    }

    pub(super) fn number<T: Copy + Into<i64>>(_: &str, number: &T) -> Written {
        let number: i64 = (*number).into();
        Ok((number != 0).then(|| number.into()))
    }

    pub(super) fn numbers(_: &str, numbers: &[u32]) -> Written {
        Ok((!numbers.is_empty()).then(|| numbers.into()))
    }

    pub(super) fn flag(_: &str, flag: &bool) -> Written {
        Ok(flag.then_some(Value::Bool(true)))
    }

    pub(super) fn real(field: &str, number: &f64) -> Written {
        let value =
            Number::from_f64(*number).ok_or_else(|| NotARequest(format!("{field} must be finite")))?;
        Ok((*number != 0.0).then_some(Value::Number(value)))
    }

    pub(super) fn time(field: &str, time: &Option<prost_types::Timestamp>) -> Written {
        let Some(time) = time else { return Ok(None) };
        let wrong = || NotARequest(format!("{field} must be a time between the years 0 and 9999"));
        let at = ::time::OffsetDateTime::from_unix_timestamp(time.seconds).map_err(|_| wrong())?;
        let nanos = u32::try_from(time.nanos).map_err(|_| wrong())?;
        let at = at.replace_nanosecond(nanos).map_err(|_| wrong())?;
        let text = at.format(&::time::format_description::well_known::Rfc3339).map_err(|_| wrong())?;
        Ok(Some(text.into()))
    }

    pub(super) fn object(field: &str, object: &Option<prost_types::Struct>) -> Written {
        object.as_ref().map(|object| of_struct(field, object, 1)).transpose()
    }

    pub(super) fn objects(field: &str, objects: &[prost_types::Struct]) -> Written {
        let written: Vec<_> =
            objects.iter().map(|object| of_struct(field, object, 2)).collect::<Result<_, _>>()?;
        Ok((!written.is_empty()).then_some(Value::Array(written)))
    }

    fn of_struct(field: &str, object: &prost_types::Struct, depth: usize) -> Result<Value, NotARequest> {
        let members = object.fields.iter().map(|(key, value)| Ok((key.clone(), of(field, value, depth)?)));
        Ok(Value::Object(members.collect::<Result<Map<_, _>, _>>()?))
    }

    fn of(field: &str, value: &prost_types::Value, depth: usize) -> Result<Value, NotARequest> {
        if depth >= MAX_DEPTH {
            return Err(NotARequest(format!("{field} is nested deeper than {MAX_DEPTH}")));
        }
        Ok(match &value.kind {
            None | Some(Kind::NullValue(_)) => Value::Null,
            Some(Kind::BoolValue(flag)) => json!(flag),
            Some(Kind::StringValue(text)) => json!(text),
            Some(Kind::NumberValue(number)) => of_number(field, *number)?,
            Some(Kind::StructValue(object)) => of_struct(field, object, depth + 1)?,
            Some(Kind::ListValue(list)) => {
                let values = list.values.iter().map(|value| of(field, value, depth + 1));
                Value::Array(values.collect::<Result<_, _>>()?)
            }
        })
    }

    /// Whole numbers are written as such: who reads them into integers refuses `1.0`.
    fn of_number(field: &str, number: f64) -> Result<Value, NotARequest> {
        /// Whole numbers up to here are exact: 2^53.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() == 0.0
            && number.abs() <= EXACT
            && let Ok(whole) = format!("{number:.0}").parse::<i64>()
        {
            return Ok(whole.into());
        }
        let number =
            Number::from_f64(number).ok_or_else(|| NotARequest(format!("{field} must be finite")))?;
        Ok(Value::Number(number))
    }
}

/// JSON as values; `None`: another type.
mod read {
    use super::{Kind, Map, Value};

    pub(super) fn text(value: Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn texts(value: Value) -> Option<Vec<String>> {
        array(value)?.into_iter().map(text).collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "one shape for all of the table")]
    pub(super) fn number<T: TryFrom<i64>>(value: Value) -> Option<T> {
        T::try_from(value.as_i64()?).ok()
    }

    pub(super) fn numbers(value: Value) -> Option<Vec<u32>> {
        array(value)?.into_iter().map(number).collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "one shape for all of the table")]
    pub(super) fn flag(value: Value) -> Option<bool> {
        value.as_bool()
    }

    #[expect(clippy::needless_pass_by_value, reason = "one shape for all of the table")]
    pub(super) fn real(value: Value) -> Option<f64> {
        value.as_f64()
    }

    pub(super) fn time(value: Value) -> Option<Option<prost_types::Timestamp>> {
        let format = &::time::format_description::well_known::Rfc3339;
        let at = ::time::OffsetDateTime::parse(&text(value)?, format).ok()?;
        let nanos = i32::try_from(at.nanosecond()).ok()?;
        Some(Some(prost_types::Timestamp { seconds: at.unix_timestamp(), nanos }))
    }

    pub(super) fn object(value: Value) -> Option<Option<prost_types::Struct>> {
        match value {
            Value::Object(members) => Some(Some(to_struct(members))),
            _ => None,
        }
    }

    pub(super) fn objects(value: Value) -> Option<Vec<prost_types::Struct>> {
        array(value)?.into_iter().map(|value| object(value).flatten()).collect()
    }

    fn array(value: Value) -> Option<Vec<Value>> {
        match value {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    fn to_struct(members: Map<String, Value>) -> prost_types::Struct {
        prost_types::Struct { fields: members.into_iter().map(|(key, value)| (key, to(value))).collect() }
    }

    /// serde_json has bounded the depth.
    fn to(value: Value) -> prost_types::Value {
        let kind = match value {
            Value::Null => Kind::NullValue(0),
            Value::Bool(flag) => Kind::BoolValue(flag),
            Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(0.0)),
            Value::String(text) => Kind::StringValue(text),
            Value::Array(values) => {
                Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(to).collect() })
            }
            Value::Object(members) => Kind::StructValue(to_struct(members)),
        };
        prost_types::Value { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> v1::ContainerRequest {
        let text = r#"{"container_id":"c","entry_point":["/bin/echo","hi"],"env":["A=b"],"cpu":500,"memory":256,
            "gpu":"A10","gpu_request":["A10"],"gpu_count":1,"image_id":"i","stub_id":"s","workspace_id":"w",
            "workspace":{"name":"n","deep":{"list":[1,2.5,null,true,"x"]}},"stub":{"external_id":"e"},
            "timestamp":"2026-11-24T10:00:00.5Z","mounts":[{"local_path":"/a","read_only":true}],"retry_count":2,
            "pool_selector":"p","preemptable":true,"checkpoint_enabled":true,"build_options":{"dockerfile":"FROM x"},
            "ports":[80,443],"cost_per_ms":0.25,"app_id":"a","checkpoint":{"k":1},"config_path":"/c",
            "image_credentials":"u:p","build_registry_credentials":"b:p","block_network":true,"allow_list":["10.0.0.0/8"],
            "docker_enabled":true,"runtime_secret_names":["S"],"runtime_token_required":true,"allow_marketplace":true,
            "machine_id":"m","checkpoint_trigger":"t","task_id":"k","hostname":"h","provisioning_attempts":3}"#;
        from_json(text).expect("a whole request")
    }

    #[test]
    fn as_deep_as_the_plugin_reads() {
        assert_eq!(MAX_DEPTH, credplugin::json::MAX_DEPTH);
    }

    #[test]
    fn every_field_there_and_back_and_as_the_plugin_reads_it() {
        let json = to_json(&full()).expect("JSON");
        assert_eq!(from_json(&json), Ok(full()));
        let fields: Map<String, Value> = serde_json::from_str(&json).expect("an object");
        assert_eq!(fields.len(), 38, "{json}");
        let plugin = credplugin::ContainerRequest::parse(json.as_bytes()).expect("the plugin reads it");
        assert_eq!((plugin.cpu, plugin.hostname.as_str()), (500, "h"));
    }

    #[test]
    fn nothing_is_an_empty_object() {
        assert_eq!(to_json(&v1::ContainerRequest::default()).as_deref(), Ok("{}"));
        assert_eq!(from_json("{}"), Ok(v1::ContainerRequest::default()));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        for (text, says) in [
            ("[]", "JSON object"),
            (r#"{"cpu":"pl4nted-x"}"#, "cpu"),
            (r#"{"env":["a",1]}"#, "env"),
            (r#"{"gpu_count":-1}"#, "gpu_count"),
            (r#"{"timestamp":"pl4nted-y"}"#, "timestamp"),
        ] {
            let error = from_json(text).expect_err(text).to_string();
            assert!(error.contains(says) && !error.contains("pl4nted"), "{error}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_refused() {
        let mut request = v1::ContainerRequest { cost_per_ms: f64::NAN, ..Default::default() };
        assert!(to_json(&request).is_err());
        request.cost_per_ms = 0.0;
        let mut value = prost_types::Value { kind: None };
        for _ in 0..200 {
            value = prost_types::Value {
                kind: Some(Kind::ListValue(prost_types::ListValue { values: vec![value] })),
            };
        }
        request.workspace = Some(prost_types::Struct { fields: [("x".to_owned(), value)].into() });
        let error = to_json(&request).expect_err("too deep").to_string();
        assert!(error.contains("workspace"), "{error}");
    }
}
