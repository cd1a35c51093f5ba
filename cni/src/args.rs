//! CNI_ARGS: `KEY=VALUE;KEY=VALUE`, keys case-sensitive.

use std::collections::BTreeMap;

use crate::{Code, Error, Result};

/// The key that makes unknown keys harmless.
pub const IGNORE_UNKNOWN: &str = "IgnoreUnknown";

/// Parses CNI_ARGS for a plug-in that understands the keys `known`; of a repeated key the last counts.
///
/// The map holds known keys only. Kubernetes always sends `IgnoreUnknown=1` and five keys of its own.
///
/// # Errors
/// Code 4 for a pair that is not `KEY=VALUE` and for an `IgnoreUnknown` that is not a boolean; code 7 for keys
/// that are not known when unknown ones are not ignored.
pub fn parse(text: &str, known: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut ignore_unknown = false;
    for (key, value) in pairs(text)? {
        if key == IGNORE_UNKNOWN {
            ignore_unknown = boolean(value).ok_or_else(|| {
                let msg = format!("CNI_ARGS: {key}: {value:?} is not 1, 0, true or false");
                Error::new(Code::INVALID_ENVIRONMENT, msg)
            })?;
        } else if known.contains(&key) {
            found.insert(key.to_owned(), value.to_owned());
        } else {
            unknown.push(format!("{key}={value}"));
        }
    }
    if !unknown.is_empty() && !ignore_unknown {
        let msg =
            format!("CNI_ARGS: unknown args {}; set IgnoreUnknown=1 to pass over them", unknown.join(", "));
        return Err(Error::config(msg));
    }
    Ok(found)
}

/// Splits CNI_ARGS into pairs, in order, without judging the keys.
///
/// # Errors
/// Code 4: a pair has no `=` or more than one.
pub fn pairs(text: &str) -> Result<Vec<(&str, &str)>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(';')
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !value.contains('=') => Ok((key, value)),
            _ => Err(Error::new(Code::INVALID_ENVIRONMENT, format!("CNI_ARGS: invalid pair {pair:?}"))),
        })
        .collect()
}

/// Joins pairs into CNI_ARGS.
///
/// # Errors
/// Code 4: a key or a value holds `;` or `=`, which the format cannot say.
pub fn join(pairs: &[(String, String)]) -> Result<String> {
    for (key, value) in pairs {
        if key.is_empty() || key.contains([';', '=', '\0']) || value.contains([';', '=', '\0']) {
            let msg = format!("CNI_ARGS: invalid pair {:?}", format!("{key}={value}"));
            return Err(Error::new(Code::INVALID_ENVIRONMENT, msg));
        }
    }
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(pairs.join(";"))
}

/// A boolean as CNI_ARGS writes it: 1, 0, true or false in any case.
pub fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const K8S: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;MAC=02:00:00:00:00:01";

    #[test]
    fn args_unknown_key_ignore_unknown_and_fields() {
        let known = &["MAC", "IP"];
        let map = parse(K8S, known).unwrap();
        assert_eq!(map.into_iter().collect::<Vec<_>>(), [("MAC".to_owned(), "02:00:00:00:00:01".to_owned())]);
        assert!(parse("", known).unwrap().is_empty());
        assert_eq!(parse("IP=10.0.0.1;IP=10.0.0.2", known).unwrap()["IP"], "10.0.0.2");
        assert_eq!(parse("IP=", known).unwrap()["IP"], "");
        for (text, code, mention) in [
            ("FOO=1", Code::INVALID_CONFIG, "FOO=1"),
            ("mac=1", Code::INVALID_CONFIG, "mac=1"),
            ("IgnoreUnknown=false;FOO=1", Code::INVALID_CONFIG, "FOO=1"),
            ("IgnoreUnknown=maybe", Code::INVALID_ENVIRONMENT, "maybe"),
            ("MAC", Code::INVALID_ENVIRONMENT, "\"MAC\""),
            ("MAC=a=b", Code::INVALID_ENVIRONMENT, "\"MAC=a=b\""),
            ("MAC=a;", Code::INVALID_ENVIRONMENT, "\"\""),
        ] {
            let e = parse(text, known).unwrap_err();
            assert_eq!(e.code, code, "{text}");
            assert!(e.msg.contains(mention), "{text}: {e}");
        }
        for text in ["1", "true", "TRUE", "True"] {
            assert!(parse(&format!("FOO=1;IgnoreUnknown={text}"), known).unwrap().is_empty());
        }
    }

    proptest! {
        #[test]
        fn parse_inverts_join(map in prop::collection::btree_map("[A-Z]{1,6}", "[a-z0-9./:]{0,8}", 0..5)) {
            let text: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let known: Vec<&str> = map.keys().map(String::as_str).collect();
            prop_assert_eq!(parse(&text.join(";"), &known).unwrap(), map);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(&text, &["IP"]);
        }
    }
}
