//! Say who the caller is.

use super::{Call, values};
use crate::contract::encode::Values;
use crate::model::refusal::Refusal;

/// Answers with the caller's own record.
pub fn me(call: &Call<'_>) -> Result<Values, Refusal> {
    Ok(values::account(&call.live.site.contract, &call.caller()?.account))
}
