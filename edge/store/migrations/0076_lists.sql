-- Lists for people that are narrowed to one state, in their own order.
CREATE INDEX hl7_message_state ON hl7_message (state, id);
CREATE INDEX imaging_order_status ON imaging_order (status, changed_at, id);
