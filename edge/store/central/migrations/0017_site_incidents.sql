-- Until 0.2 each notice of a site's alert opened an incident of its own, for each has a number of its own: the first one
-- stayed open when the alert was over. Notices of one alert have kind, subject and begin in common.
UPDATE incident SET closed_at = (
    SELECT min(later.closed_at) FROM incident AS later
    WHERE later.site = incident.site AND later.kind = incident.kind AND later.subject = incident.subject
      AND later.opened_at = incident.opened_at AND later.id > incident.id AND later.notice IS NOT NULL
)
WHERE closed_at IS NULL AND notice IS NOT NULL;
UPDATE incident SET closed_at = opened_at, merged_into = (
    SELECT min(earlier.id) FROM incident AS earlier
    WHERE earlier.site = incident.site AND earlier.kind = incident.kind AND earlier.subject = incident.subject
      AND earlier.opened_at = incident.opened_at AND earlier.closed_at IS NULL AND earlier.notice IS NOT NULL
)
WHERE closed_at IS NULL AND notice IS NOT NULL AND EXISTS (
    SELECT 1 FROM incident AS earlier
    WHERE earlier.site = incident.site AND earlier.kind = incident.kind AND earlier.subject = incident.subject
      AND earlier.opened_at = incident.opened_at AND earlier.closed_at IS NULL AND earlier.notice IS NOT NULL
      AND earlier.id < incident.id
);
