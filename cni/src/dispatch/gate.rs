//! Which verb may be called under which version.

use crate::version::Number;
use crate::{Code, Error, Result, Version};

/// Judges a configuration's `cniVersion` for `verb` against what the plug-in speaks, and returns the version to
/// work in.
///
/// ADD and DEL need an exact match. CHECK, GC and STATUS only need a plug-in that is new enough.
pub(super) fn judge(verb: &str, text: &str, supported: &[Version]) -> Result<Version> {
    let exact = Version::exact(text).filter(|v| supported.contains(v));
    let Some(minimum) = minimum(verb) else {
        return exact.ok_or_else(|| {
            let ours: Vec<_> = supported.iter().map(|v| format!("{:?}", v.as_str())).collect();
            let details = format!("config is {text:?}, plugin supports [{}]", ours.join(" "));
            Error::new(Code::INCOMPATIBLE_VERSION, "incompatible CNI versions").with_details(details)
        });
    };
    let number = Number::parse(text)?;
    if number < minimum.number() {
        let msg = format!("config version does not allow {verb}");
        return Err(Error::new(Code::INCOMPATIBLE_VERSION, msg).with_details(details(text, minimum)));
    }
    if !supported.iter().any(|v| v.number() >= number) {
        let msg = format!("plugin version does not allow {verb}");
        return Err(Error::new(Code::INCOMPATIBLE_VERSION, msg).with_details(format!("config is {text:?}")));
    }
    Ok(exact.unwrap_or_else(|| Version::at_most(number)))
}

fn minimum(verb: &str) -> Option<Version> {
    match verb {
        "CHECK" => Some(Version::V0_4_0),
        "GC" | "STATUS" => Some(Version::V1_1_0),
        _ => None,
    }
}

fn details(text: &str, minimum: Version) -> String {
    format!("config is {text:?}, needs at least {minimum}")
}
