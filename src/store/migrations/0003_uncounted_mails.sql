-- Conventions as in the first step.

-- 1 for what somebody asked for, and so counts for how many mails an hour one may ask for; 0 for news, which nobody did.
ALTER TABLE mails ADD COLUMN counted BIGINT NOT NULL DEFAULT 1;
