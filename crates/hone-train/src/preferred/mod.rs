//! Losses on responses of which some are preferred to others: what the stage that reads such responses and the one that
//! samples them share.

mod lengths;
mod method;
mod section;

pub(crate) use method::{Compared, Constants, Judged, Judgement, Method, Stats, warning};
pub use section::{IpoFormSetting, MethodSetting, PreferenceSection, SftMeanSetting, WeighSetting};
