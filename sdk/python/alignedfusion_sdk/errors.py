"""Errors that travel to the host with a code."""

CODES = {"Internal": 13, "InvalidArgument": 3, "FailedPrecondition": 9, "NotFound": 5,
         "ResourceExhausted": 8, "Unimplemented": 12}


class StageError(Exception):
    """What was given, what was wanted, where, what to do.

    code: Internal (a bug of the plugin), InvalidArgument (the caller), FailedPrecondition
    (order of calls), NotFound, ResourceExhausted (memory), Unimplemented. setting names the
    setting that was refused, if one was: the host then says that the user chose wrongly.
    """

    def __init__(self, code: str, cause: str = "", port: str = "", given: str = "", wanted: str = "", advice: str = "",
                 setting: str = "") -> None:
        super().__init__(cause or given)
        self.code, self.cause, self.port = code, cause, port
        self.given, self.wanted, self.advice, self.setting = given, wanted, advice, setting

    def message(self, stage: str, call: str) -> str:
        """The sentence a person reads, as the Go SDK writes it."""
        if self.port and self.given:
            what = '"%s" is %s' % (self.port, self.given)
        elif self.port:
            what = '"%s"' % self.port
        else:
            what = self.given
        if self.cause:
            what = what + ": " + self.cause if what else self.cause
        if self.wanted:
            what = (what + ", " if what else "") + "want " + self.wanted
        if self.advice:
            what += " (%s)" % self.advice
        return ": ".join(p for p in (stage, call, what) if p)
