//! Which version a list is spoken in.

use serde_json::{Map, Value};

use crate::version::Number;
use crate::{Code, Error, Result, Version, json};

/// Without `cniVersions`, `cniVersion` as it stands; with it, the newest of both that bowline knows, or
/// `cniVersion` when none is.
pub(super) fn version(object: &Map<String, Value>) -> Result<String> {
    let own = super::text(object, "cniVersion")?;
    let Some(listed) = json::member(object, "cniVersions") else { return Ok(own) };
    let mut offered: Vec<String> = json::decode_at("cniVersions", listed)?;
    if !own.is_empty() {
        offered.push(own.clone());
    }
    let mut best: Option<(Number, String)> = None;
    for text in offered {
        let invalid = |e: Error| Error::new(Code::INVALID_CONFIG, e.msg).context("cniVersions");
        let number = Number::parse(&text).map_err(invalid)?;
        let better = best.as_ref().is_none_or(|(so_far, _)| number >= *so_far);
        if number <= Version::NEWEST.number() && better {
            best = Some((number, text));
        }
    }
    Ok(best.map_or(own, |(_, text)| text))
}
