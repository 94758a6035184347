//! The closed set of things a client may be told.
//!
//! A [`Problem`] says what; a contract says with which status and in which words. What went wrong on our
//! side (an SQL error, an address, a stack) is a fault: it is logged with the request id and never
//! stands in here.
//!
//! To add one: a variant here, a [`ProblemKind`] with its default status, code and message, and whatever
//! returns it. Contracts that say nothing of it keep working.

use std::time::Duration;

use super::access::Bits;

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No credential where one is needed.
    NotAuthenticated,
    /// A credential that does not verify, is of the wrong kind, or whose session, key or account has ended.
    InvalidToken,
    /// A token of ours, rightly signed, past its time.
    TokenExpired,
    /// Sign-in failed: unknown account, wrong password, disabled account: one answer.
    InvalidCredentials,
    /// The caller is known and may not do this (role or permission).
    InsufficientPermissions,
    /// The organization's plan does not hold this feature; the plans that would pass.
    PlanRequired(Bits),
    /// A window is full; when it will admit this request again.
    RateLimited {
        /// Time until the same request would pass, more than zero.
        retry_after: Duration,
    },
    /// Registration: the address has an account.
    EmailTaken,
    /// Registration: the sign-in name has an account.
    UsernameTaken,
    /// The body cannot be used; what is wrong, by field.
    InvalidRequest(Vec<FieldError>),
    /// The path cannot be decided on safely.
    AmbiguousPath,
    /// The request line or headers cannot be decided on safely; what is wrong.
    MalformedRequest(&'static str),
    /// No route, or no such resource for this caller.
    NotFound,
    /// The path exists, not for this method; the methods it exists for, comma-separated.
    MethodNotAllowed(String),
    /// The body is longer than the route takes.
    PayloadTooLarge,
    /// The body is not of a type the operation reads.
    UnsupportedMediaType,
    /// The host is not served here (or not on this connection, RFC 9110 section 15.5.20).
    MisdirectedRequest,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The request's body came more slowly than it may.
    RequestTooSlow,
    /// Something on our side that is not the client's business.
    Internal,
    /// The backend could not be reached or answered nonsense.
    BadGateway,
    /// We cannot decide or serve now (store lost, overload, draining); try again.
    Unavailable,
    /// The backend did not answer in time.
    GatewayTimeout,
}

/// What is wrong with one field of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field as the client spelt it; empty for the body as a whole.
    pub field: String,
    /// What is wrong, for a person: `must be at least 8 characters`.
    pub message: String,
}

impl FieldError {
    /// A complaint about `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

macro_rules! kinds {
    ($($kind:ident $name:literal $status:literal $message:literal,)*) => {
        /// The kinds of [`Problem`], as contracts name them under `[problem]`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub enum ProblemKind {
            $(#[doc = concat!("`", $name, "`, ", stringify!($status), " unless the contract says otherwise.")] $kind,)*
        }

        impl ProblemKind {
            /// Every kind, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name in contracts, metrics and logs; also the default `$code`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            /// The status where the contract states none.
            pub const fn default_status(self) -> u16 {
                match self { $(Self::$kind => $status),* }
            }

            /// The message where the contract states none.
            pub const fn default_message(self) -> &'static str {
                match self { $(Self::$kind => $message),* }
            }
        }
    };
}

kinds! {
    NotAuthenticated "not_authenticated" 401 "Authentication required",
    InvalidToken "invalid_token" 401 "Invalid credential",
    TokenExpired "token_expired" 401 "Token has expired",
    InvalidCredentials "invalid_credentials" 401 "Invalid credentials",
    InsufficientPermissions "insufficient_permissions" 403 "Insufficient permissions",
    PlanRequired "plan_required" 403 "This feature requires $plans plan",
    RateLimited "rate_limit_exceeded" 429 "Rate limit exceeded",
    EmailTaken "email_taken" 409 "Email already registered",
    UsernameTaken "username_taken" 409 "Username already registered",
    InvalidRequest "invalid_request" 400 "Invalid request: $reasons",
    AmbiguousPath "ambiguous_path" 400 "The request path is ambiguous",
    MalformedRequest "malformed_request" 400 "Malformed request: $reasons",
    NotFound "not_found" 404 "Not found",
    MethodNotAllowed "method_not_allowed" 405 "Method not allowed",
    PayloadTooLarge "payload_too_large" 413 "Payload too large",
    UnsupportedMediaType "unsupported_media_type" 415 "Unsupported media type",
    MisdirectedRequest "misdirected_request" 421 "This host is not served here",
    RequestTimeout "request_timeout" 408 "The request did not arrive in time",
    RequestTooSlow "request_too_slow" 408 "The request body came too slowly",
    Internal "internal_error" 500 "Internal error",
    BadGateway "bad_gateway" 502 "The upstream server could not be reached",
    Unavailable "service_unavailable" 503 "Service temporarily unavailable",
    GatewayTimeout "gateway_timeout" 504 "The upstream server did not answer in time",
}

impl Problem {
    /// Which kind it is: what a contract renders and a metric counts.
    pub const fn kind(&self) -> ProblemKind {
        match self {
            Self::NotAuthenticated => ProblemKind::NotAuthenticated,
            Self::InvalidToken => ProblemKind::InvalidToken,
            Self::TokenExpired => ProblemKind::TokenExpired,
            Self::InvalidCredentials => ProblemKind::InvalidCredentials,
            Self::InsufficientPermissions => ProblemKind::InsufficientPermissions,
            Self::PlanRequired(_) => ProblemKind::PlanRequired,
            Self::RateLimited { .. } => ProblemKind::RateLimited,
            Self::EmailTaken => ProblemKind::EmailTaken,
            Self::UsernameTaken => ProblemKind::UsernameTaken,
            Self::InvalidRequest(_) => ProblemKind::InvalidRequest,
            Self::AmbiguousPath => ProblemKind::AmbiguousPath,
            Self::MalformedRequest(_) => ProblemKind::MalformedRequest,
            Self::NotFound => ProblemKind::NotFound,
            Self::MethodNotAllowed(_) => ProblemKind::MethodNotAllowed,
            Self::PayloadTooLarge => ProblemKind::PayloadTooLarge,
            Self::UnsupportedMediaType => ProblemKind::UnsupportedMediaType,
            Self::MisdirectedRequest => ProblemKind::MisdirectedRequest,
            Self::RequestTimeout => ProblemKind::RequestTimeout,
            Self::RequestTooSlow => ProblemKind::RequestTooSlow,
            Self::Internal => ProblemKind::Internal,
            Self::BadGateway => ProblemKind::BadGateway,
            Self::Unavailable => ProblemKind::Unavailable,
            Self::GatewayTimeout => ProblemKind::GatewayTimeout,
        }
    }
}
