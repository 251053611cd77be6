"""bundle: everything that the device needs."""


def write(context, **artifacts):
    raise NotImplementedError
