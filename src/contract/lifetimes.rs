//! How long tokens, sessions and mails live: `[tokens]`, `[sessions]`, `[mail]`.

use std::time::Duration;

use toml::Spanned;

use super::operation::Operation;
use super::raw::{RawContract, RawMail, RawRefresh, RawSessions, RawTokens};
use super::source::Report;
use super::{MailRules, RefreshRules, Rotation, SessionRules, TokenRules};
use crate::model::window::parse_duration;

const HOUR: Duration = Duration::from_hours(1);
/// Ten years: beyond it a length of time is a slip of the keyboard.
const LONGEST: Duration = Duration::from_hours(24 * 3_653);

/// A length of time up to [`LONGEST`]; what is wrong is told.
pub(super) fn duration(raw: Option<&Spanned<String>>, default: Duration, report: &mut Report<'_>) -> Duration {
    let Some(raw) = raw else { return default };
    match parse_duration(raw.get_ref()) {
        Some(length) if length <= LONGEST => length,
        _ => {
            let message = "a length of time is a whole number and ms, s, m, h or d, at most 3653d";
            report.tell(&raw.span(), message, "write a length such as `30m` or `7d`");
            default
        }
    }
}

/// A length of time after which something ends: more than nothing.
fn lifetime(raw: Option<&Spanned<String>>, default: Duration, report: &mut Report<'_>) -> Duration {
    let length = duration(raw, default, report);
    if let (Some(raw), true) = (raw, length.is_zero()) {
        report.tell(&raw.span(), "it would be over when it begins", "write a length such as `1h`");
    }
    length
}

pub(super) fn tokens(raw: &RawTokens, report: &mut Report<'_>) -> TokenRules {
    let access_ttl = duration(raw.access_ttl.as_ref(), HOUR, report);
    let session_lifetime = duration(raw.session_lifetime.as_ref(), HOUR * 24 * 30, report);
    if let Some(raw) = &raw.access_ttl
        && (access_ttl.subsec_millis() != 0 || access_ttl.is_zero())
    {
        // `expires_in` and `exp` are whole seconds (RFC 6749 section 5.1, RFC 7519 section 2).
        report.tell(&raw.span(), "a token lives whole seconds, at least one", "write a length such as `1h`");
    }
    if session_lifetime < access_ttl {
        let place = raw.session_lifetime.as_ref().or(raw.access_ttl.as_ref()).map_or(0..0, Spanned::span);
        report.tell(&place, "a session would end before its first token", "make session_lifetime at least access_ttl");
    }
    let refresh = raw.refresh.as_ref().map(|raw| refresh(raw.get_ref(), access_ttl, report));
    TokenRules { access_ttl, session_lifetime, refresh }
}

fn refresh(raw: &RawRefresh, access_ttl: Duration, report: &mut Report<'_>) -> RefreshRules {
    let ttl = lifetime(Some(&raw.ttl), HOUR * 24 * 7, report);
    if !ttl.is_zero() && ttl < access_ttl {
        let message = "a refresh token would end before the access token that it came with";
        report.tell(&raw.ttl.span(), message, "make ttl at least access_ttl");
    }
    let rotation = raw.rotation.unwrap_or(Rotation::Rotate);
    if let (Rotation::None, Some(grace)) = (rotation, &raw.grace) {
        report.tell(&grace.span(), "nothing rotates, so no replaced token needs a grace", "leave `grace` out");
    }
    let usual = if rotation == Rotation::Rotate { Duration::from_secs(10) } else { Duration::ZERO };
    let grace = duration(raw.grace.as_ref(), usual, report);
    if let Some(raw) = &raw.grace
        && grace > Duration::from_mins(5)
    {
        // Within the grace a stolen token that was replaced already is as good as its successor.
        report.tell(&raw.span(), "a grace of more than five minutes", "10s is enough for the tabs of one browser");
    }
    let ends_with_password = raw.ends_with_password.as_ref().is_some_and(|ends| *ends.get_ref());
    RefreshRules { ttl, rotation, grace, ends_with_password }
}

pub(super) fn sessions(raw: &RawSessions, report: &mut Report<'_>) -> SessionRules {
    let max = raw.max.as_ref().map(|max| *max.get_ref());
    if let Some(raw) = &raw.max
        && !(1..=1000).contains(raw.get_ref())
    {
        report.tell(
            &raw.span(),
            "a user has at least 1 session and at most 1000",
            "5 is usual; without it, any number",
        );
    }
    let idle = raw.idle.as_ref().map(|raw| lifetime(Some(raw), HOUR, report));
    SessionRules { max, idle }
}

pub(super) fn mail(raw: &RawMail, report: &mut Report<'_>) -> MailRules {
    MailRules {
        verify_ttl: lifetime(raw.verify_ttl.as_ref(), HOUR * 24, report),
        reset_ttl: lifetime(raw.reset_ttl.as_ref(), HOUR, report),
        verify_on_register: raw.verify_on_register.as_ref().is_some_and(|on| *on.get_ref()),
    }
}

/// What is made must be of use, and what is used must be made somewhere.
pub(super) fn used(raw: &RawContract, report: &mut Report<'_>) {
    use Operation::{EmailResend, EmailVerify, PasswordChange, PasswordReset, PasswordResetRequest, RefreshToken};
    let stated = |wanted: Operation| raw.operation.iter().find(|raw| *raw.operation.get_ref() == wanted);
    let serves = |wanted: Operation| stated(wanted).is_some();
    if let Some(refresh) = &raw.tokens.refresh
        && !serves(RefreshToken)
    {
        let remedy = "add an [[operation]] with do = \"refresh_token\", or leave [tokens.refresh] out";
        report.tell(&refresh.span(), "no operation takes a refresh token", remedy);
    }
    let with_password = raw.tokens.refresh.as_ref().and_then(|refresh| refresh.get_ref().ends_with_password.as_ref());
    if let Some(ends) = with_password.filter(|ends| *ends.get_ref())
        && !serves(PasswordChange)
    {
        let remedy = "add an [[operation]] with do = \"password_change\", or leave this out";
        report.tell(&ends.span(), "no operation changes a password", remedy);
    }
    let Some(mail) = &raw.mail else { return };
    let on_register = mail.get_ref().verify_on_register.as_ref().filter(|on| *on.get_ref());
    if !serves(PasswordReset) && !serves(EmailVerify) {
        let remedy = "add an [[operation]] with do = \"email_verify\" or \"password_reset\", or leave [mail] out";
        report.tell(&mail.span(), "no operation takes a token out of a mail", remedy);
        return;
    }
    if let (Some(on), false) = (on_register, serves(EmailVerify)) {
        let remedy = "add an [[operation]] with do = \"email_verify\", or leave this out";
        report.tell(&on.span(), "no operation takes the verification token", remedy);
    }
    let pairs = [
        (PasswordReset, serves(PasswordResetRequest), "nothing sends a reset token", "do = \"password_reset_request\""),
        (PasswordResetRequest, serves(PasswordReset), "no operation takes the reset token", "do = \"password_reset\""),
        (EmailResend, serves(EmailVerify), "no operation takes the verification token", "do = \"email_verify\""),
        (
            EmailVerify,
            serves(EmailResend) || on_register.is_some(),
            "nothing sends a verification token",
            "do = \"email_resend\", or verify_on_register = true to [mail]",
        ),
    ];
    for (operation, matched, message, missing) in pairs {
        if let (Some(raw), false) = (stated(operation), matched) {
            report.tell(&raw.operation.span(), message, format!("add an [[operation]] with {missing}"));
        }
    }
}
